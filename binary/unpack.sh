#!/bin/sh
# rumpx @VERSION@ in one file, for Linux on @MACHINE@ with glibc @GLIBC@ or later.
#
# This script unpacks what follows it, once, into a folder of its user's, and becomes the program
# that is there. The folder is named by a checksum, so two versions never share one. It uses tools
# that every Linux has, BusyBox as well: tar, gzip, tail, find, mktemp and a few more.
#
# All of it runs in subshells, so that the program gets the user's environment as it was.

# Print the path of the program, unpacked if it was not; or tell why that is impossible.
find_program() (
    PATH=/usr/bin:/bin${PATH:+:$PATH}
    cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
    told=
    for folder in "${cache:+$cache/rumpx}" "${TMPDIR:-/tmp}/rumpx-$(id -u)"; do
        [ -n "$folder" ] || continue
        program=$folder/@VERSION@-@CHECKSUM@/rumpx
        if is_ours "$folder" && [ -x "$program" ] || why=$(unpack "$folder" "$program" 2>&1); then
            printf %s "$program"
            exit 0
        fi
        told="$told
  $folder: $(printf %s "$why" | tail -n 1)"
    done
    echo "rumpx: This program could not unpack itself, or does not run where it did:$told" >&2
    echo "It needs a folder for @MB@ MB where programs may run, which XDG_CACHE_HOME or TMPDIR may" \
        "name, and Linux on @MACHINE@ with glibc @GLIBC@ or later." >&2
    exit 1
)

# In a folder for all, as /tmp, another user may have made one of that name.
is_ours() {
    [ -d "$1" ] && [ -O "$1" ] && [ ! -L "$1" ]
}

# Unpack beside the place, prove that the program runs, and only then move it there.
unpack() (
    mkdir -p -m 700 "$1" || exit 1
    is_ours "$1" || { echo "It is another user's."; exit 1; }
    find "$1" -maxdepth 1 -name ".new-*" -mmin +60 -exec rm -rf {} +  # of a start that was killed
    place=${2%/rumpx}
    [ -d "$place" ] && [ ! -x "$2" ] && rm -rf "$place"  # it lost a part
    new=$(mktemp -d "$1/.new-XXXXXX") || exit 1
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    if ! tail -c @LENGTH@ "$0" | tar -xzf - -C "$new"; then
        echo "This file is not whole, or the disk is full."
        exit 1
    fi
    [ -x "$new/rumpx" ] || { echo "Programs may not run there (mount option noexec)."; exit 1; }
    "$new/rumpx" --version >/dev/null || exit 1
    [ -d "$place" ] || mv "$new" "$place" || exit 1
    rm -rf "$place/${new##*/}"  # another start was faster
)

rumpx=$(find_program) && exec "$rumpx" "$@"
exit 1
