"""A training run as a job of a Ray cluster, through the Jobs API of its dashboard: packed, submitted, followed, stopped.

The job's id is the run's name and the number of the attempt, so that submitting a config again goes on with the same run: the
job finds the run's folder and its last whole checkpoint.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvid.config import Config, ConfigError, is_hub_id, load
from rlvid.jobs.package import megabytes, pack
from rlvid.process.one_line import first_line

KEYS = ("WANDB_API_KEY", "HF_TOKEN")
"""Variables that are handed on where the environment has them."""
RUN = "rlvid_run"
"""Metadata key under which a job keeps its run's name."""
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_S = 1.0
ANSWER_S = 20.0
"""A dashboard that says nothing for so long is none."""
READY_S = 60.0
"""A cluster that has a dashboard can take jobs so soon."""
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_S = 90.0
"""Between Ray's SIGTERM to all processes of a job and its SIGKILL: so long a run may take to end in order. Ray itself gives it three seconds."""
LOST_S = 300.0
"""A dashboard that cannot be reached for so long will not come back."""


@dataclass(frozen=True)
class Parcel:
    """What is packed and how it is started. `env`: names of variables, never values."""

    folder: Path = Path(".")
    excludes: tuple[str, ...] = ()
    limit_bytes: int = 100 * 10**6
    env: tuple[str, ...] = ()
    python: str = "python"


class Jobs:
    """The jobs of one cluster. Raises ConfigError where no dashboard answers at the address."""

    def __init__(self, address: str | None) -> None:
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
        if not address or not re.match(r"https?://", address):
            raise ConfigError(f"--address: {address or 'missing'}: write the address of the cluster's dashboard, such as http://HEAD:8265")
        self.address = address
        if _has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when ray is imported
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they would replace what was asked for
            self.client = self._client()

    def _client(self) -> Any:
        import logging

        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)
        _probe(self.address)
        try:
            client = JobSubmissionClient(self.address)
            client.get_version()
            return client
        except AuthenticationError:
            raise ConfigError(
                f"--address: {self.address} wants the cluster's token, or another one: put it into RAY_AUTH_TOKEN, or a file named by RAY_AUTH_TOKEN_PATH"
            ) from None
        except (RuntimeError, OSError, LookupError, ValueError) as error:  # the last two: what answers there is something else
            raise _no_dashboard(self.address, error) from None

    def submit(self, config_file: Path, overrides: Sequence[str], parcel: Parcel, arguments: Sequence[str] = ()) -> str:
        """Start the run on the cluster. Returns the job's id, at once."""
        config = load(config_file, list(overrides))
        inside = _inside(config_file, parcel.folder)
        check_paths(config)
        name = self._free_name(config.run.name)
        with tempfile.TemporaryDirectory() as aside:
            package = pack(parcel.folder, Path(aside) / "rlvid.zip", excludes=parcel.excludes, limit_bytes=parcel.limit_bytes)
            print(f"packed  {package.files} files of {parcel.folder.resolve()}, {megabytes(package.size_bytes)}")
            command = [parcel.python, "-m", "rlvid.cli", "train", inside, *overrides, "cluster.address=auto", *arguments]
            environment = variables(parcel.env, os.environ)
            return self._patiently(
                lambda: self.client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=name,
                    runtime_env={"working_dir": str(package.path), "env_vars": {STOP_WAIT: f"{STOP_S:g}"} | environment},
                    metadata={RUN: config.run.name},
                )
            )

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """In its first seconds a cluster has a dashboard, but nobody yet to start a job: asked again until it has."""
        until = time.monotonic() + READY_S
        while True:
            try:
                return call()
            except RuntimeError as error:
                if "No available agent" not in str(error):
                    raise
                if time.monotonic() > until:
                    raise ConfigError(
                        f"--address: the cluster at {self.address} has no agent to start a job, {READY_S:g} s long: see that its head is well"
                    ) from None
                time.sleep(POLL_S)

    def _free_name(self, run: str) -> str:
        """RUN-1, RUN-2, ...: the next attempt of this run. Two attempts at a time would write into one folder."""
        attempts = {}
        for job in self.client.list_jobs():
            match = re.fullmatch(rf"{re.escape(run)}-(\d+)", job.submission_id or "")
            if match:
                attempts[int(match[1])] = job
        going = [job.submission_id for job in attempts.values() if str(job.status.value) not in OVER]
        if going:
            raise ConfigError(
                f"run {run} is under way as job {going[0]}: follow it with --follow {going[0]}, end it with --stop {going[0]}, or choose another run.name"
            )
        return f"{run}-{max(attempts, default=0) + 1}"

    def follow(self, job: str) -> int:
        """Print the job's output until it is over. Returns its exit code (130 when it was stopped)."""
        asyncio.run(self._tail(job))
        details = self._details(job)
        while str(details.status.value) not in OVER:  # the log ends a moment before the job does
            time.sleep(POLL_S)
            details = self._details(job)
        print(f"job {job}: {details.status.value.lower()}")
        if details.status.value == "STOPPED":
            return 130
        if details.status.value == "FAILED":
            if details.driver_exit_code is None:
                print(f"error: {(details.message or 'no reason given').strip().splitlines()[-1]}", file=sys.stderr)
            return details.driver_exit_code or 1
        return 0

    async def _tail(self, job: str) -> None:
        """The log as it grows. A lost connection is taken up again, without repeating what was shown, until the job is over or the dashboard is lost."""
        from aiohttp import ClientError

        shown, heard = 0, time.monotonic()
        while True:
            position = 0
            try:
                async for text in self.client.tail_job_logs(job):
                    new = text[max(0, shown - position) :]
                    position += len(text)
                    shown = max(shown, position)
                    heard = time.monotonic()
                    print(new, end="", flush=True)
                return
            except (RuntimeError, OSError, ClientError) as error:
                status = self._status(job)
                if status in OVER:
                    return
                heard = time.monotonic() if status else heard
                if time.monotonic() - heard > LOST_S:
                    raise _no_dashboard(self.address, error) from None
                await asyncio.sleep(POLL_S)

    def _status(self, job: str) -> str:
        """The job's status; empty while the dashboard cannot be asked."""
        try:
            return str(self._details(job).status.value)
        except (RuntimeError, OSError):
            return ""

    def stop(self, job: str, wait_s: float = 120) -> str:
        """Ask the job to end and wait until it has. Returns its last status, in lower case."""
        self._details(job)
        self.client.stop_job(job)
        deadline = time.monotonic() + wait_s
        while (status := str(self._details(job).status.value)) not in OVER and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return status.lower()

    def _details(self, job: str) -> Any:
        try:
            return self.client.get_job_info(job)
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise ConfigError(f"{self.address} has no job {job} (known: {', '.join(self._known()) or 'none'})") from None
            raise

    def _known(self) -> list[str]:
        return sorted(job.submission_id for job in self.client.list_jobs() if job.submission_id)


def _probe(address: str) -> None:
    """Ray's client would wait for an answer for ever."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        pass  # an answer: the client will say what is wrong with it
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _no_dashboard(address, error) from None


def _no_dashboard(address: str, error: Exception) -> ConfigError:
    return ConfigError(f"--address: no dashboard answers at {address} ({first_line(error)}): is the cluster up? From outside, forward its port first")


def follow_or_stop(jobs: Jobs, job: str) -> int:
    """Follow; on Ctrl-C ask whether the job itself is to end. Without a terminal to ask, it goes on."""
    try:
        return jobs.follow(job)
    except KeyboardInterrupt:
        if sys.stdin.isatty() and _asked(f"\nstop job {job}? [y/N] "):
            print(f"job {job}: {jobs.stop(job)}")
        else:
            print(f"\njob {job} goes on; see it again with --follow {job}, end it with --stop {job}")
        return 130


def check_paths(config: Config) -> None:
    """Refuse paths that mean another place in the job's folder on the cluster, which ends with the job."""
    paths = {"run.dir": config.run.dir, "data.train": config.data.train, "data.eval": config.data.eval, "relevance.model": config.relevance_folder}
    if isinstance(config.data.skip, Path):
        paths["data.skip"] = config.data.skip
    if not is_hub_id(config.model.path):
        paths["model.path"] = Path(config.model.path)
    for key, path in paths.items():
        if path is not None and not path.is_absolute():
            raise ConfigError(f"{key}: {path} is relative, and a job runs in a passing folder of the cluster: give the path under which every node has it")


def variables(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The values of the known keys and of the named variables. A named one that is not set is wrong input."""
    for name in names:
        if "=" in name or not name:
            raise ConfigError(f"--env: write the name of a variable only, not {name.partition('=')[0]}=...: its value is taken from the environment")
        if name not in environment:
            raise ConfigError(f"--env: {name} is not set in this environment")
    return {name: environment[name] for name in (*KEYS, *names) if environment.get(name)}


def _has_token() -> bool:
    """Ray looks for the cluster's token in these places, but only in token mode."""
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or (Path.home() / ".ray" / "auth_token").is_file()


def _inside(config_file: Path, folder: Path) -> str:
    try:
        return config_file.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise ConfigError(f"{config_file} is not in {folder.resolve()}, which is packed for the job: move it there, or name another --working-dir") from None


def _asked(question: str) -> bool:
    try:
        return input(question).strip().lower().startswith("y")
    except (EOFError, KeyboardInterrupt):
        return False


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
