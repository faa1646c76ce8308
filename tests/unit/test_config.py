"""The configuration tree: every shipped file parses, and every mistake is answered in one line that names the cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlvid.config import Config, ConfigError, load

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in ROOT.glob("configs/**/*.yaml") if "deepspeed" not in path.parts)
LEAST = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}}


def write(folder: Path, tree: object) -> Path:
    path = folder / "c.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert message and "\n" not in message and "pydantic" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_file_parses(path: Path) -> None:
    config = load(path)
    assert config.run.name
    again = Config.model_validate(yaml.safe_load(config.dump()))
    assert again == config, "the resolved tree must read back as itself"


def test_names_of_shipped_runs_differ() -> None:
    names = [load(path).run.name for path in CONFIGS]
    assert len(set(names)) == len(names), "two files of one run name would resume each other's checkpoints"


def test_defaults_are_enough(tmp_path: Path) -> None:
    config = load(write(tmp_path, LEAST))
    assert config.variants_per_question == len(config.variants.kinds)
    assert not config.on_gpu and config.dtype == "float32" and config.transport == "gloo"


def test_gpu_resolves_auto(tmp_path: Path) -> None:
    config = load(write(tmp_path, LEAST), ["learner.num_gpus=1", "rollout.num_gpus=1"])
    assert config.on_gpu and config.dtype == "bfloat16" and config.transport == "nccl"


def test_the_tree_is_frozen(tmp_path: Path) -> None:
    config = load(write(tmp_path, LEAST))
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 1  # type: ignore[misc]


def test_every_field_has_its_manual() -> None:
    for name, section in Config.model_fields.items():
        fields = getattr(section.annotation, "model_fields", None)
        assert fields or section.description, f"{name} has no docstring"
        for field, info in (fields or {}).items():
            assert info.description, f"{name}.{field} has no docstring"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.lr=2e-6", ("learner", "lr", 2e-6)),
        ("learner.lr=0.5", ("learner", "lr", 0.5)),
        ("variants.kinds=[uniform, uniform]", ("variants", "kinds", ("uniform", "uniform"))),
        ("data.eval=null", ("data", "eval", None)),
        ("run.name=other", ("run", "name", "other")),
        ("prompt.system=a=b", ("prompt", "system", "a=b")),
        ("tracker.kind=none", ("tracker", "kind", "none")),
        ("run.dump_rollouts=false", ("run", "dump_rollouts", False)),
    ],
)
def test_overrides(tmp_path: Path, override: str, expected: tuple[str, str, object]) -> None:
    section, field, value = expected
    assert getattr(getattr(load(write(tmp_path, LEAST), [override]), section), field) == value


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert load(write(tmp_path, LEAST), ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lerner.lr=1", ["unknown key lerner", "did you mean learner?"]),
        ("learner.lrr=1", ["unknown key learner.lrr", "did you mean lr?"]),
        ("rollout.answer=1", ["unknown key rollout.answer", "did you mean answers?"]),
        ("loss.qqqqqq=1", ["unknown key loss.qqqqqq", "known:", "clip_low"]),
        ("learner.lr", ["learner.lr", "key=value"]),
        ("=3", ["key=value"]),
        ("run.seed.x=1", ["run.seed"]),
        ("learner.lr=-1", ["learner.lr", "-1"]),
        ("learner.lr=[", ["learner.lr=[", "not YAML"]),
        ("learner.zero_stage=4", ["learner.zero_stage", "4"]),
        ("learner.lr=.inf", ["learner.lr", "finite"]),
        ("advantage.eps=.nan", ["advantage.eps", "finite"]),
        ("cluster.object_store_gib=.inf", ["cluster.object_store_gib", "finite"]),
        ("learner.betas=[0.9, 1.5]", ["learner.betas.1", "less than 1"]),
        ("learner.lr=" + "[" * 3000, ["not YAML"]),
        ("video={frames: 16, frames: 32}", ["not YAML"]),
        ("run.name=../up", ["run.name", "../up"]),
        ("run.steps=0", ["run.steps"]),
        ("run.steps=many", ["run.steps", "many"]),
        ("variants.kinds=[]", ["variants.kinds"]),
        ("variants.kinds=[unifrom]", ["variants.kinds", "unifrom"]),
        ("video.frames=7", ["video.frames"]),
        ("reward.weights={multiple_chioce: {accuracy: 1}}", ["multiple_chioce", "did you mean multiple_choice?"]),
        ("reward.weights={open: {acuracy: 1}}", ["reward.weights.open", "acuracy"]),
        ("model.path=null", ["model.path"]),
        ("model=null", ["model"]),
        ("learner=3", ["learner"]),
    ],
)
def test_a_wrong_value_names_the_key(tmp_path: Path, override: str, says: list[str]) -> None:
    message = refusal(write(tmp_path, LEAST), override)
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("overrides", "both"),
    [
        (["learner.ranks=4", "learner.sequence_parallel=3"], ["learner.sequence_parallel (3)", "learner.ranks (4)"]),
        (
            ["learner.ranks=2", "learner.sequence_parallel=2", "model.attention=flex_attention", "learner.num_gpus=1", "rollout.num_gpus=1"],
            ["learner.sequence_parallel (2)", "model.attention"],
        ),
        (["video.candidates=8", "video.frames=16"], ["video.candidates", "video.frames"]),
        (["rollout.answers=65"], ["rollout.answers", "rollout.max_sequences"]),
        (["rollout.max_tokens=8192"], ["rollout.max_tokens", "rollout.max_model_len"]),
        (["rollout.num_gpus=1", "rollout.tensor_parallel=2"], ["rollout.num_gpus", "rollout.tensor_parallel"]),
        (["learner.num_gpus=1"], ["learner.num_gpus", "rollout.num_gpus"]),
        (["sync.transport=nccl"], ["sync.transport", "num_gpus"]),
        (
            ["learner.num_gpus=1", "rollout.num_gpus=1", "repair.enabled=true", "teacher.kind=engine", "teacher.model=m", "teacher.num_gpus=0"],
            ["teacher.kind", "teacher.num_gpus"],
        ),
        (["model.attention=flex_attention"], ["model.attention", "num_gpus"]),
        (["advantage.group=per_variant", "rollout.answers=1"], ["advantage.group", "rollout.answers"]),
        (["variants.kinds=[uniform]", "rollout.answers=1"], ["variants.kinds", "rollout.answers"]),
        (["video.max_tokens=8000"], ["video.max_tokens", "rollout.max_tokens", "rollout.max_model_len"]),
    ],
)
def test_an_impossible_pair_names_both_and_the_cure(tmp_path: Path, overrides: list[str], both: list[str]) -> None:
    message = refusal(write(tmp_path, LEAST), *overrides)
    assert all(name in message for name in both), message


def test_a_missing_key(tmp_path: Path) -> None:
    assert "missing key data" in refusal(write(tmp_path, {"run": {"name": "r"}, "model": {"path": "m"}}))
    assert "missing key run.name" in refusal(write(tmp_path, {**LEAST, "run": {}}))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert str(missing) in refusal(missing) and "no such file" in refusal(missing)
    assert "line 2" in refusal(write(tmp_path, "run: {name: r}\nmodel: ]\n"))
    assert "mapping" in refusal(write(tmp_path, "- a\n"))
    assert "mapping" in refusal(write(tmp_path, ""))
    assert "c.yaml: 7: " in refusal(write(tmp_path, {**LEAST, 7: 1}))
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "c.yaml" in refusal(tmp_path / "c.yaml")
    assert "not YAML" in refusal(write(tmp_path, "a: \x00"))
    assert "too deep" in refusal(write(tmp_path, "a: " + "[" * 3000))


def test_a_section_that_is_there_twice(tmp_path: Path) -> None:
    """YAML would take the last one and drop what the first one says."""
    text = yaml.safe_dump(LEAST) + "video:\n  frames: 32\nloss: {}\nvideo:\n  deadline_s: 300\n"
    assert "the key video is there twice" in refusal(write(tmp_path, text))
    shared = "base: &base {frames: 16}\nvideo: {<<: *base, frames: 32}\n"
    assert "unknown key base" in refusal(write(tmp_path, yaml.safe_dump(LEAST) + shared)), "a merge is no second key"


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, {**LEAST, "extends": "gone.yaml"}))
    assert message.startswith(f"{tmp_path / 'c.yaml'}: extends: ") and "gone.yaml is no file" in message


def test_a_mistake_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, {**LEAST, "learner": {"lrr": 1}})
    assert refusal(path).startswith(f"{path}: ")


def path_settings() -> list[str]:
    """Every setting whose type says that it names a file or folder, and those that are known to."""
    found = {"model.path", "relevance.model", "teacher.model", "run.storage"}
    for name, section in Config.model_fields.items():
        for field, info in getattr(section.annotation, "model_fields", {}).items():
            if "Path" in str(info.annotation) or "written_out" in str(info):
                found.add(f"{name}.{field}")
    return sorted(found)


@pytest.mark.parametrize("key", path_settings())
def test_home_and_variables_are_written_out_in_every_path(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/mnt/scratch")
    monkeypatch.delenv("NOWHERE", raising=False)
    section, field = key.split(".")
    path, prefix = write(tmp_path, LEAST), "file://" if key == "run.storage" else ""
    cases = {"$SCRATCH/x": "/mnt/scratch/x", "${SCRATCH}/x": "/mnt/scratch/x", "$HOME/x": "/home/somebody/x"} | ({} if prefix else {"~/x": "/home/somebody/x"})
    for given, expected in cases.items():
        assert str(getattr(getattr(load(path, [f"{key}={prefix}{given}"]), section), field)) == prefix + expected
    message = refusal(path, f"{key}={prefix}$NOWHERE/x")
    assert key in message and "$NOWHERE, which is not set" in message
    if not prefix:
        assert "home of a user that is not known" in refusal(path, f"{key}=~nobody-here/x")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["prompt.format=Put the answer into \\boxed{}."], "does not ask for <answer>"),
        (["rollout.repeatable=true", "rollout.max_staleness=1"], "cannot repeat"),
        (["rollout.temperature=0.005"], "rollout.temperature"),
        (["run.seed=-1"], "run.seed"),
        (["run.seed=4294967296"], "run.seed"),
    ],
)
def test_settings_that_would_be_wrong_in_silence(override: list[str], words: str, tmp_path: Path) -> None:
    assert words in refusal(write(tmp_path, LEAST), *override)


def test_what_asks_for_the_tags_elsewhere_passes(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST)
    load(path, ["prompt.format=Be brief.", "prompt.system=Answer inside <answer> </answer>."])
    load(path, ["prompt.format=Use \\boxed{}.", "reward.custom=mine:boxed"])
    load(path, ['prompt.format=""'])


def test_ids_to_skip(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST)
    assert load(path, ["data.skip=[q1, 7]"]).data.skipped == {"q1", "7"}
    (tmp_path / "ids.txt").write_text("q1\n\n q2 \n")
    assert load(path, [f"data.skip={tmp_path / 'ids.txt'}"]).data.skipped == {"q1", "q2"}
    with pytest.raises(ConfigError, match=r"data\.skip: .*No such file.*data\.skip=\[ID\]"):
        assert load(path, ["data.skip=q1"]).data.skipped


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_files_keep_what_they_decode_within_a_limit(path: Path) -> None:
    video = load(path).video
    assert video.cache_dir is not None and 0 < video.cache_gib <= 50
