#!/bin/sh
# rumpx @VERSION@ in one file, for Linux on @MACHINE@ with glibc @GLIBC@ or later.
#
# This script unpacks what follows it, once, into a folder of its user's, and becomes the program
# that is there. The folder is named by a checksum, so two versions never share one. It uses tools
# that every Linux has, in BusyBox as well; they are listed in `unpack`.
#
# All of it runs in subshells, so that none of its variables reaches the program.

# Print the path of the program, unpacked if it was not; or tell why that is impossible.
find_program() (
    PATH=/usr/bin:/bin${PATH:+:$PATH}
    name=@VERSION@-@CHECKSUM@
    shared=${TMPDIR:-/tmp}/rumpx-$(id -u)
    own=$(own_folder)
    for folder in "$own" "$shared"; do
        if is_ours "$folder" && is_whole "$folder/$name"; then
            printf %s "$folder/$name/rumpx"
            exit 0
        fi
    done
    told=
    for folder in "$own" "$shared"; do
        [ -n "$folder" ] || continue
        if why=$(unpack "$folder" "$folder/$name" 2>&1); then
            printf %s "$folder/$name/rumpx"
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

# The user's cache; not under sudo in the home of someone else, who could not remove it.
own_folder() {
    if [ -n "$XDG_CACHE_HOME" ]; then
        echo "$XDG_CACHE_HOME/rumpx"
    elif [ -n "$HOME" ] && [ -O "$HOME" ]; then
        echo "$HOME/.cache/rumpx"
    fi
}

# In a folder for all, as /tmp, another user may have made one of that name, or a link.
is_ours() {
    [ -d "$1" ] && [ -O "$1" ] && { [ "$1" = "$own" ] || [ ! -L "$1" ]; }
}

is_whole() {
    [ -x "$1/rumpx" ] && [ "$(find "$1" -type f | wc -l)" -eq @FILES@ ]
}

# Unpack beside the place, prove that the program runs, and only then move it there.
unpack() (
    umask 077
    for tool in find gzip mkdir mktemp mv rm tail tar wc; do
        command -v "$tool" >/dev/null || { echo "There is no command $tool."; exit 1; }
    done
    mkdir -p "$1" || exit 1
    is_ours "$1" || { echo "It is another user's."; exit 1; }
    find "$1" -maxdepth 1 -name ".new-*" -mmin +10 -exec rm -rf {} +  # of a start that was killed
    new=$(mktemp -d "$1/.new-XXXXXX") || exit 1
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    trap '' PIPE
    if ! told=$({ tail -c @LENGTH@ "$0" | tar -xzf - -C "$new"; } 2>&1); then
        echo "It cannot be unpacked (is this file whole, is the disk full?):" $told
        exit 1
    fi
    [ -x "$new/rumpx" ] || { echo "Programs may not run there (mount option noexec)."; exit 1; }
    "$new/rumpx" --version >/dev/null || exit 1
    if [ -d "$2" ] && ! is_whole "$2"; then  # a cleaner has been there
        mv "$2" "$new/damaged" || exit 1
    fi
    [ -d "$2" ] || mv "$new" "$2" || exit 1
    rm -rf "$2/${new##*/}" "$2/damaged"  # another start was faster; the damaged one
)

set -- "$(find_program)" "$@"
[ -n "$1" ] && exec "$@"
exit 1
