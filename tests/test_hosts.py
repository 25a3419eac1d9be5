"""Two hosts, each a network namespace with an address of its own, train together, and notice when one is gone."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftk.recipe_files import find_recipe
from tests.soak.kills import PRETRAINING, SENTENCES, STEPS, TRAINING, begins, differences, end, finish, kill_all, newest

HOSTS = [f"hftk-{os.getpid()}-{number}" for number in range(2)]
ADDRESS, PORT = "10.77.0", "29500"  # inside the namespaces alone
TIMEOUT = 15  # seconds without an answer after which a process gives up
TOLD = (
    f"hftk: training.ddp_timeout: another process has died, or was out of reach for {TIMEOUT} seconds; see what it "
    "printed, and launch all of them again with --resume\n"
)


def ip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two namespaces with a cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    try:
        if (made := ip("netns", "add", HOSTS[0])).returncode != 0:
            pytest.skip(f"no network namespaces: {made.stderr}")
        ip("netns", "add", HOSTS[1]).check_returncode()
        ip(*"link add eth0 netns".split(), HOSTS[0], *"type veth peer name eth0 netns".split(), HOSTS[1])
        for number, host in enumerate(HOSTS):
            ip("-n", host, "addr", "add", f"{ADDRESS}.{number + 1}/24", "dev", "eth0").check_returncode()
            for device in ("lo", "eth0"):
                ip("-n", host, "link", "set", device, "up").check_returncode()
        yield HOSTS
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


def start(rank: int, folder: Path, output: Path, *more: str) -> subprocess.Popen:
    """One host's part of a pretraining; what it prints goes to a file of its own."""
    launch = ["ip", "netns", "exec", HOSTS[rank], sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(find_recipe("accelerate/cpu")), "--num_machines", "2", "--machine_rank", str(rank)]
    launch += ["--main_process_ip", f"{ADDRESS}.1", "--main_process_port", PORT]
    training = ["-m", "hftk", "pretrain", f"{folder}/pretrain.yaml", "--output", str(output), *more]
    with open(printed(output, rank), "w") as file:
        return subprocess.Popen(
            [*launch, *training], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "eth0"},
        )  # fmt: skip


def printed(output: Path, rank: int) -> Path:
    return Path(f"{output}-{rank}.txt")


@pytest.fixture
def whole(hosts, tmp_path) -> Path:
    """A pretraining on both hosts that nothing happens to."""
    recipe = PRETRAINING.format(folder=tmp_path, training=json.dumps({**TRAINING, "ddp_timeout": TIMEOUT}))
    (tmp_path / "pretrain.yaml").write_text(recipe, encoding="utf-8")
    shutil.copy(SENTENCES, tmp_path / "text.txt")
    output = tmp_path / "whole"
    for process in [start(rank, tmp_path, output) for rank in range(2)]:
        finish(process, output)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("accident", ["cut off", "killed"])
def test_a_host_whose_peer_is_gone_says_so_and_a_resume_ends_as_if_it_had_stayed(accident, whole, tmp_path):
    run, since = tmp_path / "run", time.time_ns()
    processes = [start(rank, tmp_path, run) for rank in range(2)]
    try:
        assert begins(processes[0], run, since)
        while not [*run.glob("checkpoint-*")] and processes[0].poll() is None:
            time.sleep(0.01)
        if accident == "cut off":
            ip("-n", HOSTS[1], "link", "set", "eth0", "down").check_returncode()
        else:
            kill_all(processes.pop())
        gone = time.monotonic()
        assert all(end(process, run) != 0 for process in processes)
        seconds = time.monotonic() - gone
        assert seconds < 2 * TIMEOUT
        print(f"{accident}: ended after {seconds:.1f} seconds")
        for rank, _ in enumerate(processes):
            said = printed(run, rank).read_text()
            assert said.count("hftk: ") == 1 and TOLD in said and "RuntimeError" not in said
    finally:
        for process in processes:
            if process.poll() is None:
                kill_all(process)
    assert 0 < newest(run) < STEPS

    ip("-n", HOSTS[1], "link", "set", "eth0", "up").check_returncode()
    for process in [start(rank, tmp_path, run, "--resume") for rank in range(2)]:
        finish(process, run)
    assert differences(whole, run) == []
