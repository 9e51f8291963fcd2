"""`rumpx example`: each file is what it says, and does what it is for."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rumpx import examples
from rumpx.cli.config import NOT_IN_FILES, with_config
from rumpx.cli.flags import make_job
from rumpx.cli.parsers import (
    build_parser,
    build_report_parser,
    build_resume_parser,
    build_verify_parser,
)
from rumpx.display.metrics import parse_listen
from rumpx.errors import EXIT_SOME_KEYS_FAILED, TemporaryError, TimeOver, UsageError
from rumpx.examples import FILES, read_example
from rumpx.examples.config import render_config
from rumpx.model.job import Limits
from rumpx.model.options import COPY, flags_of
from rumpx.model.schedule import parse_timetable
from support.copying import held
from support.data import compare, fill_mixed
from support.run import Running
from support.servers import Server, free_port
from test_metrics import exposition, families_of, full_snapshot

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.smoke


# --- the command ---------------------------------------------------------------------------------


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert examples.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["rumpx", "example", name] for name in FILES]
    titles = [title for _, title in FILES.values()]
    assert len({line.index(title) for line, title in zip(lines, titles, strict=True)}) == 1
    examples.run(["--help"])
    assert capsys.readouterr().out.splitlines() == lines


def test_every_file_is_listed() -> None:
    there = {path.name for path in Path(examples.__file__).parent.iterdir() if path.is_file()}
    assert there - {"__init__.py", "config.py"} == {file for file, _ in FILES.values() if file}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert examples.run([name]) == 0
    path = Path(examples.__file__).parent / FILES[name][0]
    text = render_config() if name == "config" else path.read_text(encoding="utf-8")
    assert capsys.readouterr().out == text


def test_no_such_example() -> None:
    expected = r"no example 'x'\. The examples are: config, container, grafana"
    with pytest.raises(UsageError, match=expected):
        examples.run(["x"])
    with pytest.raises(UsageError, match="one file"):
        examples.run(["config", "grafana"])


# --- config --------------------------------------------------------------------------------------


def options() -> dict[str, argparse.Action]:
    """What a file may hold, in the order of --help."""
    return {
        name[2:]: action
        for group in build_parser()._action_groups
        for action in group._group_actions
        for name in action.option_strings
        if name.startswith("--") and name[2:] not in NOT_IN_FILES
    }


def option_lines() -> dict[str, str]:
    """The lines of the example that hold options, by name, without what comments them out."""
    found = re.findall(r"^#?(([a-z-]+) = .+)$", read_example("config"), re.M)
    lines = {name: line for line, name in found}
    assert len(lines) == len(found), "an option stands there twice"
    return lines


def read_lines(folder: Path, *lines: str) -> argparse.Namespace:
    """A file of these lines, understood; what it names in /etc/rumpx is in `folder`."""
    path = folder / "config.toml"
    path.write_text("\n".join(lines).replace("/etc/rumpx", str(folder)), encoding="utf-8")
    return with_config(build_parser(), ["--config", str(path)])


def test_the_config_has_every_option_in_the_order_of_help() -> None:
    assert list(option_lines()) == list(options())


def test_the_config_as_it_is() -> None:
    assert set(tomllib.loads(read_example("config"))) == {"from", "to"}


def test_the_config_with_all_options(tmp_path: Path) -> None:
    arguments = read_lines(tmp_path, *option_lines().values())
    assert set(arguments.config_options) == set(options())


NEEDS = {
    "delete-extra": ["follow"],
    "max-deletes": ["follow"],
    "dask-scheduler": ["engine"],
    "dask-send-passwords": ["engine", "dask-scheduler"],
    "exit-when-off": ["schedule"],
    "from-cert": ["from-key"],
    "from-key": ["from-cert"],
    "to-cert": ["to-key"],
    "to-key": ["to-cert"],
}


@pytest.mark.parametrize("name", option_lines())
def test_each_option_of_the_config_by_itself(name: str, tmp_path: Path) -> None:
    lines = option_lines()
    for value in tomllib.loads("\n".join(lines.values())).values():
        if str(value).startswith("/etc/rumpx"):
            (tmp_path / Path(value).name).write_text("secret\n")
    told = {"from": lines["from"], "to": lines["to"]}
    told |= {other: lines[other] for other in (name, *NEEDS.get(name, ()))}
    arguments = read_lines(
        tmp_path, *(line.replace("redis://", "rediss://") for line in told.values())
    )
    job = make_job(arguments)
    if name == "metrics":
        assert parse_listen(arguments.metrics) == ("127.0.0.1", 9121)
    if name in ("max-source-latency", "max-target-latency", "max-target-memory"):
        assert job.limits == Limits(), "the default is shown"


def test_the_config_shows_defaults() -> None:
    values = tomllib.loads("\n".join(option_lines().values()))
    shown = [flag for flag in flags_of(COPY) if flag.default and not flag.example]
    assert len(shown) > 20
    for flag in shown:
        assert str(values[flag.name]) == flag.default, flag.name


def test_the_config_explains_every_option() -> None:
    for block in read_example("config").split("\n\n"):
        lines = block.splitlines()
        if any(re.match(r"#[a-z]", line) for line in lines):
            assert lines[0].startswith("# "), block
            assert re.search(r"\b[Dd]efault\b", block.replace("\n# ", " ")), block


# --- grafana -------------------------------------------------------------------------------------

DASHBOARD: dict[str, Any] = json.loads(read_example("grafana"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def expressions() -> Iterator[str]:
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])


def test_the_dashboard_asks_for_what_there_is() -> None:
    known = {
        sample.name: set(sample.labels)
        for family in families_of(exposition(full_snapshot()))
        for sample in family.samples
    }
    asked: set[str] = set()
    for expression in expressions():
        names = re.findall(r"[a-z_]*rumpx[a-z_]*", expression)
        assert names and set(names) <= set(known), expression
        assert expression.count('{job="$job", instance="$instance"') == len(names), expression
        asked |= set(names)
    # What needs no panel, or is told by another one.
    assert set(known) - asked == {
        "rumpx_info",
        "rumpx_elapsed_seconds",
        "rumpx_payload_bytes_total",
        "rumpx_keys_per_second",
        "rumpx_copied_keys_total",
        "rumpx_batches_in_flight",
    }


def test_legends_have_labels_that_there_are() -> None:
    labels = {
        sample.name: set(sample.labels)
        for family in families_of(exposition(full_snapshot()))
        for sample in family.samples
    }
    for panel in PANELS:
        for target in panel["targets"]:
            (name, *_) = re.findall(r"rumpx[a-z_]*", target["expr"])
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert used <= labels[name], panel["title"]
            assert used or not labels[name] or "outcome=" in target["expr"], panel["title"]


def test_counters_are_asked_for_rates() -> None:
    """Where they are drawn over time; but for what is counted since the run began."""
    for panel in PANELS:
        for target in panel["targets"]:
            if panel["type"] == "timeseries" and "_total" in target["expr"]:
                since = "since" in panel["description"]
                assert since != ("$__rate_interval" in target["expr"]), panel["title"]


def test_panels_are_described_and_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"], panel["title"]
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, (panel["title"], taken[cell])
            taken[cell] = panel["title"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    bottom = max(y for _, y in taken)
    assert len(taken) == 24 * (bottom + 1), "a gap"


def test_the_dashboard_can_be_imported_and_provisioned() -> None:
    (wanted,) = DASHBOARD["__inputs"]
    assert (wanted["name"], wanted["pluginId"]) == ("DS_PROMETHEUS", "prometheus")
    assert DASHBOARD["schemaVersion"] >= 39 and DASHBOARD["id"] is None
    source, job, instance = DASHBOARD["templating"]["list"]
    assert source["name"] == "datasource" and source["current"]["value"] == "${DS_PROMETHEUS}"
    assert job["query"]["query"] == "label_values(rumpx_info, job)"
    assert instance["query"]["query"] == 'label_values(rumpx_info{job="$job"}, instance)'
    asked = [*PANELS, *(target for panel in PANELS for target in panel["targets"]), job, instance]
    assert {thing["datasource"]["uid"] for thing in asked} == {"${datasource}"}
    kinds = {needed["id"] for needed in DASHBOARD["__requires"] if needed["type"] == "panel"}
    assert kinds == {panel["type"] for panel in PANELS}


# --- container -----------------------------------------------------------------------------------


def instructions() -> dict[str, list[str]]:
    """What the container file orders, by the instruction, lines joined."""
    text = re.sub(r"^#.*\n", "", read_example("container"), flags=re.M).replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        found.setdefault(name, []).append(rest)
    return found


def test_the_container_file() -> None:
    told = instructions()
    (image,) = told["FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)
    assert version and f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]
    assert json.loads(told["ENTRYPOINT"][0]) == ["rumpx"]
    assert told["STOPSIGNAL"] == ["SIGINT"]
    (user,) = told["USER"]
    (setting,) = told["ENV"]
    (volume,) = told["VOLUME"]
    assert setting.split("=") == ["XDG_STATE_HOME", volume.removesuffix("/rumpx")]
    assert set(re.findall(r"--uid (\d+)", told["RUN"][0])) == set(user.split(":")) != {"0"}
    assert "http" not in read_example("container")
    assert list(told)[-1] == "CMD" and set(told) == {
        *("FROM", "RUN", "ENV", "VOLUME", "USER", "WORKDIR", "STOPSIGNAL", "ENTRYPOINT", "CMD")
    }


def test_the_commands_of_the_container_file() -> None:
    text = read_example("container")
    run = re.search(r"^#   (docker run --name (?:.*\\\n#)*.*)$", text, re.M)
    assert run
    words = shlex.split(run[1].replace("\\\n#", " "))
    place = words.index("rumpx")
    assert words[:2] == ["docker", "run"] and "--read-only" in words[:place]
    arguments = build_parser().parse_args(words[place + 1 :])
    assert arguments.job == "move" and arguments.from_password_file == "/run/secrets/from"
    again = re.search(r"`(resume move .*)` instead\s", text)
    assert again and build_resume_parser().parse_args(again[1].split()[1:]).name == "move"
    assert parse_listen(re.findall(r"`--metrics (\S+)`", text)[0]) == ("0.0.0.0", 9121)


def test_the_extra_of_the_container_file() -> None:
    (extras,) = re.findall(r"rumpx\[([\w,]+)\]", read_example("container"))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert "dask" in extras, "the Kubernetes example needs it"


# --- kubernetes ----------------------------------------------------------------------------------


def manifests() -> dict[str, dict[str, Any]]:
    """The objects of the example, by kind and, if several have it, part."""
    found: dict[str, dict[str, Any]] = {}
    for thing in yaml.safe_load_all(read_example("kubernetes")):
        name = thing["kind"] if thing["kind"] != "Deployment" else thing["metadata"]["name"]
        assert name not in found
        found[name] = thing
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The templates of its pods, by part."""
    templates = [thing["spec"].get("template") for thing in manifests().values()]
    return {pod["metadata"]["labels"]["part"]: pod for pod in templates if pod}


def container_of(part: str) -> dict[str, Any]:
    (container,) = pods()[part]["spec"]["containers"]
    told: dict[str, Any] = container
    return told


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("name", manifests())
def test_kubernetes_takes_it(name: str, version: str) -> None:
    kubernetes_validate.validate(manifests()[name], version, strict=True)


def test_its_parts_find_each_other() -> None:
    found = manifests()
    assert set(pods()) == {"scheduler", "worker", "coordinator"}
    for thing in found.values():
        selector = thing["spec"].get("selector", {})
        labels = selector.get("matchLabels", selector)
        if labels:
            fitting = [part for part, pod in pods().items() if fits(pod, labels)]
            assert fitting == [labels["part"]], thing["kind"]
    allowed = found["NetworkPolicy"]["spec"]
    (rule,) = allowed["ingress"]
    for selector in (allowed["podSelector"], rule["from"][0]["podSelector"]):
        assert all(fits(pod, selector["matchLabels"]) for pod in pods().values())
    scheduler = found["Service"]["metadata"]["name"]
    (port,) = found["Service"]["spec"]["ports"]
    address = f"tcp://{scheduler}:{port['port']}"
    assert container_of("worker")["command"][2] == address
    told = {entry["name"]: entry.get("value") for entry in container_of("coordinator")["env"]}
    assert told["DASK_SCHEDULER_ADDRESS"] == address
    assert container_of("scheduler")["command"][3] == str(port["targetPort"])
    (claim,) = [v for v in pods()["coordinator"]["spec"]["volumes"] if "emptyDir" not in v]
    claimed = claim["persistentVolumeClaim"]["claimName"]
    assert claimed == found["PersistentVolumeClaim"]["metadata"]["name"]


def fits(pod: dict[str, Any], labels: dict[str, str]) -> bool:
    return bool(labels.items() <= pod["metadata"]["labels"].items())


def test_its_pods_are_those_of_the_image() -> None:
    (user,) = instructions()["USER"]
    (folder,) = instructions()["VOLUME"]
    assert len({container_of(part)["image"] for part in pods()}) == 1
    for part, pod in pods().items():
        rights, container = pod["spec"]["securityContext"], container_of(part)
        assert f"{rights['runAsUser']}:{rights['runAsGroup']}" == user and rights["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"scratch": "/tmp"} | ({"jobs": folder} if part == "coordinator" else {})
        assert set(mounts) == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_its_workers_have_the_passwords() -> None:
    asked = re.findall(r"--from-literal=(\w+)", read_example("kubernetes"))
    for part in ("worker", "coordinator"):
        told = {
            entry["name"]: entry["valueFrom"]["secretKeyRef"]["key"]
            for entry in container_of(part)["env"]
            if "valueFrom" in entry
        }
        assert told == {"RUMPX_FROM_PASSWORD": "from", "RUMPX_TO_PASSWORD": "to"}
        assert set(told.values()) == set(asked)
    assert "env" not in container_of("scheduler")


def test_its_job_retries_what_may_pass() -> None:
    first, second = manifests()["Job"]["spec"]["podFailurePolicy"]["rules"]
    codes = second["onExitCodes"]
    stopped = [TemporaryError.exit_code, *(128 + n for n in (signal.SIGINT, 9, signal.SIGTERM))]
    assert first["action"] == "Ignore" and second["action"] == "FailJob"
    assert (codes["operator"], codes["values"]) == ("NotIn", stopped)
    assert codes["containerName"] == container_of("coordinator")["name"]
    assert pods()["coordinator"]["spec"]["restartPolicy"] == "Never", "as the policy demands"


def coordinate(folder: Path, *arguments: str) -> list[str]:
    """The words that its Job gives rumpx."""
    shell, flag, script, name = container_of("coordinator")["command"]
    program = folder / "bin" / "rumpx"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o700)
    done = subprocess.run(
        [shell, flag, script, name, *arguments],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin", "XDG_STATE_HOME": f"{folder}/state"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_commands_of_its_job(tmp_path: Path) -> None:
    arguments = container_of("coordinator")["args"]
    words = coordinate(tmp_path, *arguments)
    job = make_job(with_config(build_parser(), words))
    assert job.engine == "dask"
    (name,) = re.findall(r"/rumpx/(\w+)\.ledger", " ".join(container_of("coordinator")["command"]))
    assert f"--job={name}" in arguments
    ledger = tmp_path / "state" / "rumpx" / f"{name}.ledger"
    ledger.parent.mkdir(parents=True)
    ledger.touch()
    command, *again = coordinate(tmp_path, *arguments)
    assert command == "resume" and build_resume_parser().parse_args(again).name == name


def test_the_other_arguments_for_its_job(tmp_path: Path) -> None:
    told = re.findall(r"\[((?:verify|report), [^\]]*)\]", read_example("kubernetes"))
    assert len(told) == 2
    for words in told:
        assert coordinate(tmp_path, *words.split(", ")) == words.split(", ")
    verifying, reporting = (words.split(", ")[1:] for words in told)
    asked = build_verify_parser().parse_args(verifying)
    assert asked.repair and asked.engine == "dask"
    assert build_report_parser().parse_args(reporting).name == "move"


DASK = Path(sys.executable).with_name("dask")


@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_the_commands_of_its_dask_cluster(part: str) -> None:
    """Their options exist."""
    command = container_of(part)["command"]
    done = subprocess.run([DASK, *command[1:], "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- systemd -------------------------------------------------------------------------------------

SERVICE = "/etc/systemd/system/rumpx-nightly.service"
TIMER = "/etc/systemd/system/rumpx-nightly.timer"
OPTIONS = "/etc/rumpx/nightly.toml"
PROGRAM = "/opt/rumpx/bin/rumpx"


def parts() -> dict[str, str]:
    """The files in the example, by their paths."""
    _, *found = re.split(r"^(?=# /etc/)", read_example("systemd"), flags=re.M)
    return {text.splitlines()[0].removeprefix("# "): text for text in found}


def settings_of(unit: str) -> dict[str, list[str]]:
    """A unit's settings, continued lines joined as systemd does it."""
    found: dict[str, list[str]] = {}
    for line in unit.replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def command(line: str, program: str = PROGRAM) -> list[str]:
    """The words of an Exec line; our quotes are read by a shell's rules as by systemd's."""
    assert "%" not in line
    return [word.replace(PROGRAM, program) for word in shlex.split(line)]


def shell_script(program: str = PROGRAM) -> str:
    """What the service has the shell do."""
    (line,) = settings_of(parts()[SERVICE])["ExecStart"]
    shell, flag, script = command(line, program)
    assert (shell, flag) == ("/bin/sh", "-c")
    assert not re.search(r"(?<!\$)\$(?!\$)", script), "systemd would replace a single $"
    return script.replace("$$", "$")


def test_the_files_of_the_systemd_example() -> None:
    assert list(parts()) == [SERVICE, TIMER, OPTIONS]


def test_its_instructions_write_the_files(tmp_path: Path) -> None:
    def moved(text: str) -> str:
        return text.replace("/etc/", f"{tmp_path}/etc/")

    split = re.search(r"example systemd \| (awk '.*')", read_example("systemd"))
    assert split
    pattern = split[1].replace("\\/etc\\/", re.escape(f"{tmp_path}/etc/").replace("/", "\\/"))
    for path in parts():
        Path(moved(path)).parent.mkdir(parents=True, exist_ok=True)
    printed = moved(read_example("systemd"))
    subprocess.run(["sh", "-c", pattern], input=printed, text=True, check=True)
    for path, text in parts().items():
        assert Path(moved(path)).read_text() == moved(text)


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this machine has no systemd-analyze")
    paths = []
    for path in (SERVICE, TIMER):
        unit = tmp_path / Path(path).name
        unit.write_text(parts()[path].replace(PROGRAM, "/bin/true"))
        paths.append(str(unit))
    done = subprocess.run([analyze, "verify", *paths], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_shell_takes_its_line() -> None:
    done = subprocess.run(["/bin/sh", "-n", "-c", shell_script()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_and_the_timer_belong_together() -> None:
    service, timer = settings_of(parts()[SERVICE]), settings_of(parts()[TIMER])
    told = tomllib.loads(parts()[OPTIONS])
    (evening,) = re.findall(r"\d\d:\d\d(?=:00)", timer["OnCalendar"][0])
    timetable = parse_timetable(told["schedule"], None)
    assert [limit for _, limit in timetable.days[0]] == ["off", "full"]
    assert f"{timetable.days[0][1][0]:%H:%M}" == evening and told["exit-when-off"] is True
    well = {int(code) for code in service["SuccessExitStatus"][0].split()}
    assert well == {TimeOver.exit_code, 128 + signal.SIGTERM}
    assert service["RestartForceExitStatus"] == [str(TemporaryError.exit_code)]
    given = {value.partition(":")[0] for value in service["LoadCredential"]}
    assert given == {"from", "to"} == set(re.findall(r"_DIRECTORY/(from|to)\b", shell_script()))
    assert OPTIONS in shell_script()


def test_resume_reads_the_same_options(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(parts()[OPTIONS])
    told = with_config(build_resume_parser(), ["nightly", "--config", str(path)])
    assert told.exit_when_off and told.log_format == "json" and told.metrics == "127.0.0.1:9121"


class Nights:
    """The service's commands, run as systemd would run them, with folders of our own."""

    def __init__(self, folder: Path, source: Server, target: Server) -> None:
        self.folder = folder
        self.program = folder / "rumpx"
        self.program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rumpx "$@"\n')
        self.program.chmod(0o700)
        (folder / "from").write_text(f"{source.password}\n")
        (folder / "to").write_text(f"{target.password}\n")
        text = parts()[OPTIONS]
        text = text.replace("old.example.com:6379", f"127.0.0.1:{source.port}")
        text = text.replace("new.example.com:6379", f"127.0.0.1:{target.port}")
        text = text.replace("9121", str(free_port()))
        self.options = text + 'max-source-latency = "off"\nworkers = 1\nbatch-keys = 5\n'
        self.state = folder / "state"
        self.state.mkdir()

    def prepare(self) -> str:
        """What the commands before it say."""
        said = ""
        for line in settings_of(parts()[SERVICE])["ExecStartPre"]:
            line = line.replace("${STATE_DIRECTORY}", str(self.state)).replace("$$", "$")
            places = {"STATE_DIRECTORY": str(self.state)}
            with Running([], command=command(line, str(self.program)), env=places) as run:
                done = run.wait()
            assert done.returncode == 0, done.stderr
            said += done.stdout
        return said

    def start(self, schedule: str = "00:00,full") -> Running:
        """The second command, under way, by another timetable."""
        told = self.folder / "nightly.toml"
        told.write_text(re.sub(r'(?<=\nschedule = ").*(?="\n)', schedule, self.options))
        script = shell_script(str(self.program)).replace(OPTIONS, str(told))
        places = {"STATE_DIRECTORY": str(self.state), "CREDENTIALS_DIRECTORY": str(self.folder)}
        return Running([], command=["/bin/sh", "-c", script], env=places)


def test_nights(tmp_path: Path, server: Callable[..., Server]) -> None:
    source, target = server("7.0", requirepass="alt"), server("8.1", requirepass="neu")
    fill_mixed(source, 2000, ttl_share=0)
    nights = Nights(tmp_path, source, target)

    # A copy begins, and is stopped.
    assert nights.prepare() == "None is done.\n"
    with nights.start() as run:
        with held(run, lambda: target.do("DBSIZE") >= 300):
            run.send_signal(signal.SIGTERM)
        done = run.wait()
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert 300 <= target.do("DBSIZE") < 2000

    # By day it does nothing.
    with nights.start("00:00,off") as run:
        done = run.wait()
    assert done.returncode == TimeOver.exit_code, done.stderr

    # It goes on.
    assert nights.prepare() == "None is done.\n"
    with nights.start() as run:
        done = run.wait()
    assert done.returncode == 0, done.stderr
    assert compare(source, target) == []
    assert json.loads(done.stderr.splitlines()[-1])

    # The next one begins, over what is there, and may not write one key.
    source.do("SET", "new", "1")
    target.do("ACL", "SETUSER", "default", "resetkeys", "%R~*", "~[a-mo-z0-9]*")
    assert nights.prepare() == "Removed 1: nightly.\n"
    with nights.start() as run:
        done = run.wait()
    assert done.returncode == EXIT_SOME_KEYS_FAILED, done.stderr

    # Next time that key's name is kept.
    target.do("ACL", "SETUSER", "default", "allkeys")
    assert nights.prepare() == "Removed 1: nightly.\n"
    (failed,) = (nights.state / "last.failed.jsonl").read_text().splitlines()
    assert json.loads(failed)["key"] == "new"
    with nights.start() as run:
        done = run.wait()
    assert done.returncode == 0, done.stderr
    assert compare(source, target) == []
