"""A model is registered once, loaded only as it was registered, promoted and rolled back."""

import contextlib
import functools
import io
import json
import os
import pickle
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from rides import CONTRACT, RIDES
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler

from mlops_course import kinds, project, registry
from mlops_course.files import write_json

FILES = ["MLmodel", "conda.yaml", "model.skops", "python_env.yaml", "requirements.txt"]


def trips(rows: int = 200) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(7)
    features = pd.DataFrame({name: rng.random(rows) for name in CONTRACT.features})
    return features, (rng.random(rows) < features.iloc[:, 0]).astype(int)


def estimators() -> dict:
    from mlops_course.models import ClippedRegression

    spline = make_pipeline(SimpleImputer(), StandardScaler(), SplineTransformer(n_knots=4), LogisticRegression())
    boosting = HistGradientBoostingClassifier(max_iter=5, random_state=7)
    return {
        "dummy": DummyClassifier(strategy="prior"),
        "spline": spline,
        "boosting": boosting,
        "forest": RandomForestClassifier(5, random_state=7),
        "sigmoid": CalibratedClassifierCV(spline, cv=3),
        "isotonic": CalibratedClassifierCV(boosting, cv=3, method="isotonic"),
        "clipped": make_pipeline(StandardScaler(), ClippedRegression(ElasticNet(alpha=0.01))),
    }


def trained(strength: float = 1.0):
    return LogisticRegression(C=strength).fit(*trips())


def tracked(client, model=None) -> str:
    "A finished run with a model."
    run = client.create_run(registry.experiment(client)).info.run_id
    registry.log_model(client, run, trained() if model is None else model, CONTRACT.kinds)
    client.set_terminated(run)
    return run


def registered(client, *keys: str) -> list[str]:
    "The versions of models that differ, one for each key."
    return [registry.register(client, tracked(client, trained(1 + i)), key) for i, key in enumerate(keys)]


def stored(client, version: str) -> Path:
    "The folder of a version's model."
    return Path(client.get_run(registry.version_of(client, version).run_id).info.artifact_uri) / "model"


def in_a_process(work, *arguments) -> Process:
    "Begin work in a process of its own, as a copy of this one."
    process = get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def dies(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    "Run code with the names of this module in a new interpreter."
    folder = Path(__file__).parent
    code = f"import sys; sys.path[:0] = {[str(folder), str(folder.parent)]!r}\nfrom test_registry import *\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, cwd=project.root(), env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    registry.connect(folder, RIDES.name)
    return folder


@pytest.fixture
def folder(empty, tmp_path) -> Path:
    "The folder of a registry without a model. No process has opened it."
    shutil.copytree(empty, tmp_path / "mlflow")
    return tmp_path / "mlflow"


@pytest.fixture
def client(folder):
    "A registry without a model, in a folder of its own."
    return registry.connect(folder, RIDES.name)


@pytest.fixture(scope="module")
def one_model(empty, tmp_path_factory):
    "A registry with one version, for tests that leave it as it was."
    folder = tmp_path_factory.mktemp("one") / "mlflow"
    shutil.copytree(empty, folder)
    client = registry.connect(folder, RIDES.name)
    registered(client, "key")
    return client


# --- the same model is the same file -------------------------------------------------------------


def digests() -> dict[str, str]:
    return {name: sha256(registry.canonical(skops.io.dumps(e.fit(*trips())))).hexdigest() for name, e in estimators().items()}


def test_an_estimator_trained_in_two_processes_is_saved_as_the_same_bytes():
    here, there = digests(), python("print(json.dumps(digests()))", PYTHONHASHSEED="123")

    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == here
    assert len(set(here.values())) == len(here)


@pytest.mark.parametrize("name", ["dummy", "spline", "boosting", "forest", "sigmoid", "isotonic", "clipped"])
def test_a_model_in_canonical_form_predicts_what_it_did_before(name):
    features, label = trips()
    model = estimators()[name].fit(features, label)

    loaded = registry.loads(registry.canonical(skops.io.dumps(model)))

    assert np.array_equal(loaded.predict_proba(features), model.predict_proba(features))


def test_sharing_of_equal_values_does_not_show_in_the_file():
    one = [1.5]
    shared, apart = {"a": one, "b": one}, {"a": [1.5], "b": [1.5]}

    assert registry.canonical(skops.io.dumps(shared)) == registry.canonical(skops.io.dumps(apart))


def test_another_parameter_gives_another_digest(tmp_path):
    digests = {registry.save_model(trained(c), tmp_path / str(c), CONTRACT.kinds) for c in [1.0, 1.0 + 1e-9, 2.0]}

    assert len(digests) == 3


def test_mlflow_itself_reads_what_was_saved(tmp_path, monkeypatch):
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # MLflow asks for it in front of skops files too
    features, _ = trips()
    registry.save_model(trained(), tmp_path / "model", CONTRACT.kinds)

    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))

    assert loaded.metadata.signature.inputs.input_names() == list(CONTRACT.features)
    assert np.array_equal(loaded.predict(features), trained().predict_proba(features))


# --- only what is trusted -----------------------------------------------------------------------


def evil(target: Path) -> functools.partial:
    return functools.partial(os.system, f"touch {target}")


def test_a_model_that_holds_a_function_is_refused_and_runs_nothing(tmp_path):
    file = skops.io.dumps(make_pipeline(FunctionTransformer(evil(tmp_path / "ran"))))

    with pytest.raises(registry.UntrustedModel, match="not trusted: posix.system.*name it in registry.TRUSTED"):
        registry.loads(file)

    assert not (tmp_path / "ran").exists()


def rewritten(file: bytes, change) -> bytes:
    "A skops file whose schema was changed by somebody who can write to it."
    made, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(file))
    with zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(source.read(name).decode()) if name == "schema.json" else source.read(name))
    return made.getvalue()


def renamed(file: bytes, before: str, after: str, loader: str | None = None) -> bytes:
    "A skops file in which each object of the class `before` says that it is of the class `after`; module and name are parted by a colon."

    def other(node: dict) -> dict:
        module, name = before.split(":")
        if (node.get("__module__"), node.get("__class__")) == (module, name):
            node["__module__"], node["__class__"] = after.split(":")
            node["__loader__"] = loader or node["__loader__"]
        return node

    return rewritten(file, lambda schema: json.dumps(json.loads(schema, object_hook=other)))


@functools.cache
def forest() -> bytes:
    return skops.io.dumps(RandomForestClassifier(2).fit(*trips()))


TREE = "sklearn.tree._tree:Tree"


@pytest.mark.parametrize("loader", [None, "FunctionNode", "TypeNode", "ObjectNode", "ConstructorFromReduceNode"])
@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "numpy:load",
        "numpy.ctypeslib:load_library",
        "scipy:LowLevelCallable",
        "scipy.io:loadmat",
        "scipy.optimize:minimize",
        "scipy._lib._util:MapWrapper",
        "scipy.interpolate:make_interp_spline",
        "scipy.interpolate._bsplines:os",
        "sklearn.utils:Bunch",
        "mlops_course.registry:shutil",
    ],
)
def test_a_crafted_file_that_names_what_runs_code_as_its_class_is_refused_before_anything_is_made(name, loader, monkeypatch):
    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("made before it was looked at"))

    with pytest.raises(registry.UntrustedModel, match=re.escape(name.replace(":", "."))):
        registry.loads(renamed(forest(), TREE, name, loader))


@pytest.mark.parametrize("name", ["sklearn:tree._tree.Tree", "sklearn.tree:_tree.Tree", "numpy:dtype"])
def test_a_trusted_name_in_the_wrong_place_makes_no_model_and_no_traceback(name):
    with pytest.raises(registry.UntrustedModel, match="cannot be put together"):
        registry.loads(renamed(forest(), TREE, name, "ObjectNode"))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_a_file_it_is_a_model_or_refused(data):
    schema = zipfile.ZipFile(io.BytesIO(forest())).read("schema.json").decode()
    place = data.draw(st.integers(0, len(schema) - 1))
    put = data.draw(st.sampled_from(["", "0", "null", "[]", "{}", '"', "-1", "9" * 30, "[" * 5000, "true", "}", ","]))

    with contextlib.suppress(registry.UntrustedModel):
        registry.loads(rewritten(forest(), lambda _: schema[:place] + put + schema[place + data.draw(st.integers(0, 20)) :]))


def test_of_scipy_nothing_is_trusted_but_what_a_spline_is_made_of():
    from scipy.interpolate import BSpline

    spline = BSpline([0, 1], [1], 0)
    parts = [type(spline), *(part if callable(part) else type(part) for part in vars(spline).values())]

    theirs = {name for name in registry.trusted() if name.startswith("scipy.")} - {"scipy.interpolate.BSpline"}

    assert theirs <= {f"{part.__module__}.{part.__qualname__}" for part in parts}
    assert theirs & {f"{BSpline.__module__}.BSpline"}


def test_a_pickle_is_never_loaded_under_whatever_name(client, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    for name in ["model.pkl", "model.skops"]:
        run = tracked(client)
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        client.log_artifact(run, str(tmp_path / name), "model")
        if name == "model.skops":
            with pytest.raises(registry.UntrustedModel, match="no model in skops format"):
                registry.register(client, run, name)
        else:
            registry.load(client, registry.register(client, run, name))

    assert not (tmp_path / "ran").exists()


def test_a_model_with_an_untrusted_type_is_not_even_logged(client, tmp_path):
    run = client.create_run(registry.experiment(client)).info.run_id
    nasty = make_pipeline(FunctionTransformer(evil(tmp_path / "ran")), LogisticRegression())

    with pytest.raises(registry.UntrustedModel):
        registry.log_model(client, run, nasty, CONTRACT.kinds)

    assert client.list_artifacts(run) == []


def test_each_trusted_type_is_here_and_has_a_reason():
    assert all(len(reason) > 20 for reason in registry.trusted().values())
    assert all(pkgutil.resolve_name(name) for name in registry.trusted())


# --- loaded as it was registered, or not at all ----------------------------------------------------


def as_saved_before(model, name: str = "ClippedRegression") -> bytes:
    "The file of a model from the time when its class, of that name, was in the module `training`."
    source, packed = zipfile.ZipFile(io.BytesIO(registry.canonical(skops.io.dumps(model)))), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for entry in source.namelist():
            text = source.read(entry).replace(b'"mlops_course.models"', b'"mlops_course.training"')
            target.writestr(entry, text.replace(b'"ClippedRegression"', f'"{name}"'.encode()))
    return packed.getvalue()


def test_a_model_that_was_registered_before_its_class_moved_is_loaded_as_it_was(client):
    rows, label = trips()
    model = estimators()["clipped"].fit(rows, label)
    run = tracked(client, model)
    with registry.artifacts(client, run, "model") as files:
        (files / "model.skops").write_bytes(old := as_saved_before(model))
    version = registry.register(client, run, "key of old")
    registry.promote(client, version)

    loaded = registry.load(client)

    assert b"mlops_course.training" in old and loaded.digest == sha256(old).hexdigest()
    assert (loaded.probability(rows) == kinds.promised(model, rows, CONTRACT.kinds)).all()


def test_only_the_class_that_has_moved_is_looked_for_in_another_place():
    file = as_saved_before(estimators()["clipped"].fit(*trips()), "Regression")

    with pytest.raises(registry.UntrustedModel, match=r"mlops_course\.training\.Regression"):
        registry.loads(file)


def test_a_registered_model_is_loaded_with_its_names(client):
    [version] = registered(client, "key")

    loaded = registry.load(client, version)

    features, _ = trips()
    assert (loaded.name, loaded.version, loaded.features) == (RIDES.name, version, tuple(CONTRACT.features))
    assert loaded.digest == registry.model_digest(stored(client, version))
    assert np.array_equal(loaded.probability(features[features.columns[::-1]]), kinds.promised(trained(), features, CONTRACT.kinds))


def test_a_model_folder_holds_the_files_that_are_checked(client):
    [version] = registered(client, "key")

    assert sorted(path.name for path in stored(client, version).iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_changed_byte_in_any_file_is_refused_before_anything_is_loaded(one_model, name, place, monkeypatch):
    path = stored(one_model, "1") / name
    good = path.read_bytes()
    changed = bytearray(good)
    changed[int(place * (len(good) - 1))] ^= 1
    path.write_bytes(changed)
    monkeypatch.setattr(registry, "loads", lambda file: pytest.fail("loaded before it was checked"))

    with pytest.raises(registry.DigestMismatch, match=f"not loaded: {name} of version 1"):
        registry.load(one_model, "1")

    path.write_bytes(good)


def test_a_lost_file_and_an_added_file_are_refused(client):
    one, two = registered(client, "one", "two")
    (stored(client, one) / "conda.yaml").unlink()
    (stored(client, two) / "model.pkl").write_bytes(b"more")

    with pytest.raises(registry.DigestMismatch, match="conda.yaml"):
        registry.load(client, one)
    with pytest.raises(registry.DigestMismatch, match="model.pkl"):
        registry.load(client, two)


def test_a_model_of_another_version_in_its_place_is_refused(client):
    one, two = registered(client, "one", "two")
    shutil.copyfile(stored(client, two) / "model.skops", stored(client, one) / "model.skops")

    with pytest.raises(registry.DigestMismatch, match="model.skops"):
        registry.load(client, one)


def test_a_broken_model_can_not_become_champion(client):
    one, two = registered(client, "one", "two")
    registry.promote(client, one)
    (stored(client, two) / "model.skops").write_bytes(b"")

    with pytest.raises(registry.DigestMismatch):
        registry.promote(client, two)

    assert registry.load(client).version == one


def from_elsewhere(client, version: str, part: str = "scipy._external.array_api_compat.numpy._aliases:asarray") -> None:
    "Make a registered model one that another SciPy has saved: its splines hold a part that is not here."
    folder = stored(client, version)
    held = next(name for name in registry.trusted() if name.startswith("scipy._lib") or name.endswith("._BSpline"))
    file = folder / "model.skops"
    file.write_bytes(renamed(file.read_bytes(), ":".join(held.rsplit(".", 1)), part))
    pins = folder / "requirements.txt"
    pins.write_text(re.sub(r"scipy==.*", "scipy==1.99.0", pins.read_text()))
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    client.set_model_version_tag(RIDES.name, version, "files", json.dumps(digests))


@pytest.mark.parametrize("part", ["scipy._external.array_api_compat.numpy._aliases:asarray", "scipy.interpolate._bsplines:_Other"])
def test_a_model_that_another_scipy_has_saved_is_refused_in_a_line_that_names_both(client, tmp_path, part):
    version = registry.register(client, tracked(client, estimators()["spline"].fit(*trips())), "key")
    from_elsewhere(client, version, part)
    registry.save_copy(client, version, tmp_path / "kept")

    for opened in [lambda: registry.load(client, version), lambda: registry.load_copy(tmp_path / "kept")]:
        with pytest.raises(registry.OtherLibraries) as refused:
            opened()
        assert f"saved with scipy 1.99.0 (here {registry.libraries()['scipy']}). Run the training again here" in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_a_model_without_a_part_of_its_own_opens_whichever_scipy_has_saved_it(client):
    [version] = registered(client, "key")
    pins = stored(client, version) / "requirements.txt"
    pins.write_text(re.sub(r"scipy==.*", "scipy==1.99.0", pins.read_text()))
    client.set_model_version_tag(
        RIDES.name,
        version,
        "files",
        json.dumps(
            {**json.loads(registry.version_of(client, version).tags["files"]), "requirements.txt": sha256(pins.read_bytes()).hexdigest()}
        ),
    )

    assert np.array_equal(registry.load(client, version).model.predict_proba(trips()[0]), trained().predict_proba(trips()[0]))
    assert (
        registry.saved_elsewhere(client, registry.version_of(client, version).run_id)
        == f"scipy 1.99.0 (here {registry.libraries()['scipy']})"
    )


# --- once -----------------------------------------------------------------------------------------


def test_the_same_key_registers_nothing_new(client):
    [first] = registered(client, "key")
    run = registry.version_of(client, first).run_id

    [second] = registered(client, "key")

    assert (second, registry.find(client, "key")) == (first, registry.Found(run, first))
    assert len(client.search_model_versions(f"name = '{RIDES.name}'")) == 1


def test_a_finished_run_that_was_not_registered_is_found_and_a_running_one_is_not(client):
    finished, running = tracked(client), client.create_run(registry.experiment(client)).info.run_id
    client.set_tag(finished, "key", "finished")
    client.set_tag(running, "key", "running")

    assert registry.find(client, "finished") == registry.Found(finished, None)
    assert registry.find(client, "running") is None


def test_two_processes_with_one_key_make_one_version(folder):
    both = [in_a_process(lambda: registered(registry.connect(folder, RIDES.name), "key")) for _ in range(2)]
    for process in both:
        process.join()

    client = registry.connect(folder, RIDES.name)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(client.search_runs([registry.experiment(client)])) == 2
    assert [version.version for version in client.search_model_versions(f"name = '{RIDES.name}'")] == [1]


@pytest.mark.parametrize("step", ["create_model_version", "set_model_version_tag"])
def test_a_kill_on_the_way_leaves_nothing_that_is_found_and_the_next_run_registers(folder, step):
    def killed():
        client = registry.connect(folder, RIDES.name)
        run = client.create_run(registry.experiment(client)).info.run_id
        client.set_tag(run, "key", "key")
        registry.log_model(client, run, trained(), CONTRACT.kinds)
        setattr(client, step, dies)
        registry.register(client, run, "key")

    process = in_a_process(killed)
    process.join()

    client = registry.connect(folder, RIDES.name)
    assert process.exitcode == -signal.SIGKILL
    assert registry.find(client, "key") is None
    [version] = registered(client, "key")
    assert registry.load(client, "challenger").version == version
    assert registry.find(client, "key").version == version


def test_a_version_that_was_registered_by_half_can_not_be_promoted(client):
    run = tracked(client)
    client.create_registered_model(RIDES.name)
    client.create_model_version(RIDES.name, f"runs:/{run}/model", run)

    with pytest.raises(registry.UnknownVersion, match="did not come to its end"):
        registry.promote(client, "1")


def test_a_run_without_a_model_is_not_registered(client):
    run = client.create_run(registry.experiment(client)).info.run_id

    with pytest.raises(registry.UnknownVersion, match="has no model"):
        registry.register(client, run, "key")


# --- champion, and back ---------------------------------------------------------------------------


def test_the_newest_registered_model_is_challenger_until_it_is_promoted(client):
    _, two = registered(client, "one", "two")
    assert registry.aliases(client) == {"challenger": two}

    registry.promote(client, "challenger")

    assert registry.aliases(client) == {"champion": two}


def test_rollbacks_go_back_one_champion_each_and_then_say_that_there_is_none(client):
    versions = registered(client, "one", "two", "three")
    for version in versions:
        registry.promote(client, version)

    assert [registry.rollback(client), registry.rollback(client)] == ["2", "1"]
    with pytest.raises(registry.NoChampion, match="version 1 was the first champion: there is nothing to go back to"):
        registry.rollback(client)

    assert registry.load(client).version == "1"


def test_a_rolled_back_champion_is_passed_over_by_the_next_rollback(client):
    one, two, three = registered(client, "one", "two", "three")
    for version in [one, two]:
        registry.promote(client, version)
    registry.rollback(client)
    registry.promote(client, three)

    assert registry.rollback(client) == one


def test_a_champion_that_comes_back_by_promotion_does_not_make_rollbacks_go_in_circles(client):
    one, two = registered(client, "one", "two")
    for version in [one, two, one]:
        registry.promote(client, version)

    assert [registry.rollback(client), registry.rollback(client)] == [two, one]
    with pytest.raises(registry.NoChampion):
        registry.rollback(client)


def test_promoting_the_champion_changes_nothing(client):
    one, two = registered(client, "one", "two")
    registry.promote(client, one)
    registry.promote(client, two)
    registry.promote(client, two)

    assert registry.rollback(client) == one


def test_a_rollback_can_be_seen_afterwards(client, tmp_path):
    from mlops_course.telemetry import logging_to

    one, two = registered(client, "one", "two")
    with logging_to(tmp_path / "log.jsonl"):
        registry.promote(client, one)
        registry.promote(client, two)
        registry.rollback(client)

    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["model promoted", "model promoted", "model rolled back"]
    assert (lines[-1]["version"], lines[-1]["rolled_back"]) == (one, two)
    assert registry.trace(client, two)["rolled_back"] == project.now().isoformat()


def test_a_kill_before_the_alias_moves_leaves_the_champion_and_its_history(folder):
    def killed():
        client = registry.connect(folder, RIDES.name)
        for version in registered(client, "one", "two", "three"):
            registry.promote(client, version)
        client.set_registered_model_alias = dies
        registry.rollback(client)

    process = in_a_process(killed)
    process.join()

    client = registry.connect(folder, RIDES.name)
    assert process.exitcode == -signal.SIGKILL
    assert registry.load(client).version == "3"
    assert [registry.rollback(client), registry.rollback(client)] == ["2", "1"]


def test_without_a_champion_the_message_names_the_notebook_or_the_last_decision(client, tmp_path):
    decision = tmp_path / "training/decision.json"
    measured = {"auc": None, "log_loss": None, "base_log_loss": None}
    write_json(decision, {"decision": "refused", "reasons": ["10 labels, at least 2,000 are needed"], "metrics": measured})

    with pytest.raises(registry.NoChampion, match="no model has passed the gate of notebooks/45_training_pipeline.ipynb.*make run"):
        registry.load(client)
    with pytest.raises(registry.NoChampion, match="refused: 10 labels, at least 2,000 are needed. On its test: AUC not measurable"):
        registry.load(client, decision=decision)
    with pytest.raises(registry.NoChampion):
        registry.rollback(client)


# --- trace ----------------------------------------------------------------------------------------


def test_a_trace_leads_from_version_alias_or_run_to_snapshot_and_parameters(client):
    run = client.create_run(registry.experiment(client)).info.run_id
    client.log_param(run, "seed", 7)
    registry.log_model(client, run, trained(), CONTRACT.kinds)
    client.set_terminated(run)
    version = registry.register(client, run, "key", {"snapshot": "abc", "code": "def"})
    registry.promote(client, version)

    traces = [registry.trace(client, which) for which in [version, "champion", run]]

    assert traces[0] == traces[1] == traces[2]
    traced = {name: traces[0][name] for name in ["version", "run_id", "key", "snapshot", "code", "parameters", "aliases"]}
    assert traced == {
        "version": version,
        "run_id": run,
        "key": "key",
        "snapshot": "abc",
        "code": "def",
        "parameters": {"seed": "7"},
        "aliases": ["champion"],
    }


def test_a_run_that_was_not_registered_can_be_traced_too(client):
    run = tracked(client)

    assert (registry.trace(client, run)["version"], registry.trace(client, run)["run_id"]) == (None, run)


@pytest.mark.parametrize("which", ["17", "favourite", "0" * 32])
def test_what_is_not_there_is_named(client, which):
    with pytest.raises(registry.UnknownVersion, match=which):
        registry.trace(client, which)


# --- the folder -------------------------------------------------------------------------------------


def test_a_copied_registry_reads_and_writes_its_own_files(client, tmp_path):
    [version] = registered(client, "key")
    registry.promote(client, version)
    shutil.move(tmp_path / "mlflow", tmp_path / "moved")

    moved = registry.connect(tmp_path / "moved", RIDES.name)
    [other] = registered(moved, "other")

    assert registry.load(moved).version == version
    assert all(stored(moved, each).is_relative_to(tmp_path / "moved") for each in [version, other])
    assert not (tmp_path / "mlflow").exists()


def test_a_registry_prints_nothing_and_leaves_no_folder_where_one_stands(tmp_path):
    (tmp_path / "here").mkdir()
    code = "os.chdir(sys.argv[2]); client = registry.connect(sys.argv[1], 'driver-completion'); registry.register(client, tracked(client), 'key')"

    ran = python(code, str(tmp_path / "mlflow"), str(tmp_path / "here"))

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert list((tmp_path / "here").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "mlflow").iterdir()) == ["artifacts", "mlflow.db", "registry.lock"]


def test_the_module_imports_without_mlflow():
    code = "import sys; sys.modules['mlflow'] = None; sys.modules['skops'] = None; import mlops_course.registry"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
