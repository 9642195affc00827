"""What is done with a model: compressed, compared, planned, swept, expanded; and what goes wrong."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import dirnet
import models
from conftest import QUICK

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def test_compress_writes_a_smaller_file_that_runs(loaded, tmp_path):
    out, page = tmp_path / "s.onnx", tmp_path / "r.html"
    lines = []
    small = loaded.compress(out, ratio=5, checks={"min_snr": {"logits": 10}}, report=[page], **{**QUICK, "progress": lines.append})
    assert small.path == out and small.size == out.stat().st_size < loaded.path.stat().st_size / 2
    report = small.report
    assert report.command == "compress" and report.weights.ratio >= 5 and report.model.output == str(out)
    assert report.verify.passed and report.verify["logits"].snr_db > 10 and report.loss == report.raw["verify"]["loss"]
    assert {unit.node for unit in report.units} == {"lstm", "head"}
    assert [(check.output, check.gate) for check in report.verify.checks] == [("logits", "min-snr")]
    assert page.read_text() == report.html and report.html.startswith("<!doctype html>")
    assert "&lt;!doctype html&gt;" in small._repr_html_()
    assert any(line.startswith("learn") for line in lines) and any(line.startswith("verify") for line in lines)
    feed = {"features": models.clips(1, seed=9)[0]}
    ours, theirs = (model.session().run(["logits"], feed)[0] for model in (loaded, small))
    assert 0 < np.abs(ours - theirs).max() < 0.3 * np.abs(ours).max()


def test_effort_is_a_number_and_a_time_budget_names_it(loaded, tmp_path):
    quick = {name: value for name, value in QUICK.items() if name not in ("sensitivity", "tune")}
    small = loaded.compress(tmp_path / "a.onnx", ratio=5, effort=0, **quick)
    assert small.report.effort == {"level": "0", "flags": "--sensitivity none --tune off --codec block", "time_budget": None}
    timed = loaded.compress(tmp_path / "b.onnx", ratio=5, time_budget="1h", tune="off", **quick)
    level = timed.report.effort["level"]
    again = loaded.compress(tmp_path / "c.onnx", ratio=5, effort=level, tune="off", **quick)
    assert timed.report.effort["time_budget"] == 3600 and again.read_bytes() == timed.read_bytes()


def test_models_are_paths_bytes_or_messages(classifier, tmp_path):
    proto = onnx.load(classifier)
    untouched = proto.SerializeToString()
    external = tmp_path / "external" / "model.onnx"
    external.parent.mkdir()
    copy = onnx.load(classifier)
    onnx.save(copy, external, save_as_external_data=True, size_threshold=1024, location="weights")
    feeds = [{"features": clip} for clip in models.clips(4, seed=1)]

    def compress(source):
        return dirnet.compress(source, ratio=5, calibration=feeds, **QUICK)

    expected = compress(str(classifier)).read_bytes()
    assert all(compress(source).read_bytes() == expected for source in (classifier, classifier.read_bytes(), proto))
    for source in (external, onnx.load(external)):
        small = compress(source)
        assert small.report.weights.ratio >= 5 and small.size < 0.5 * classifier.stat().st_size
        small.check(engine="onnxruntime", min_snr={"logits": 10})
    assert proto.SerializeToString() == untouched
    with pytest.raises(dirnet.InputError, match="tensors are in the file weights"):
        dirnet.inspect(onnx.load(external, load_external_data=False))
    with pytest.raises(dirnet.InputError, match="not int"):
        dirnet.inspect(3)


def test_temporary_files_go_with_the_objects(classifier):
    loaded = dirnet.load(classifier.read_bytes(), calibration=[{"features": clip} for clip in models.clips(4, seed=1)])
    small = loaded.compress(ratio=5, **QUICK)
    folders = [loaded.path.parent, loaded._inputs.folder.path, small.path.parent]
    del loaded
    gc.collect()
    assert all(folder.exists() for folder in folders), "the result still needs the model and its samples"
    small.check(min_snr=5, progress=False)
    del small
    gc.collect()
    assert not any(folder.exists() for folder in folders)


def test_a_failed_check_has_the_figures_and_writes_nothing(loaded, tmp_path):
    out = tmp_path / "s.onnx"
    with pytest.raises(dirnet.CheckFailed, match=r"output 'logits': snr .* is below --min-snr 90 \(by") as caught:
        loaded.compress(out, ratio=5, checks={"min_snr": {"logits": 90}}, **QUICK)
    assert not out.exists()
    failed = caught.value
    assert isinstance(failed, dirnet.JobFailed) and failed.code == 1
    assert not failed.report.verify.passed and failed.report.verify["logits"].snr_db < 90
    with pytest.raises(dirnet.CheckFailed):
        loaded.compress(out, ratio=5, checks={"min_snr": {"logits": 90}}, keep_failed=True, **QUICK)
    assert out.exists()


def test_errors_are_exceptions_by_exit_code(loaded, classifier, tmp_path):
    with pytest.raises(dirnet.InputError, match=r"^nix\.onnx: No such file") as caught:
        dirnet.compress("nix.onnx", tmp_path / "s.onnx", progress=False)
    assert caught.value.code == 2 and isinstance(caught.value, ValueError)
    with pytest.raises(dirnet.JobFailed, match="the nearest is") as caught:
        loaded.compress(ratio=900, **QUICK)
    assert caught.value.code == 1 and not isinstance(caught.value, dirnet.CheckFailed)
    with pytest.raises(dirnet.InputError, match="unexpected argument '--no-such-flag'"):
        loaded.compress(no_such_flag=True, **QUICK)
    with pytest.raises(dirnet.InputError, match="check 'min_noise' is unknown, expected one of max_abs"):
        loaded.compress(checks={"min_noise": 3})
    with pytest.raises(dirnet.InputError, match="keep_failed needs an output"):
        loaded.compress(keep_failed=True)
    before = classifier.read_bytes()
    with pytest.raises(dirnet.DirnetError):
        loaded.compress(classifier, ratio=5, **QUICK)
    assert classifier.read_bytes() == before, "the input is never changed"


def test_warnings_are_those_of_python(classifier):
    with pytest.warns(dirnet.DirnetWarning, match="calibrated on random inputs") as caught:
        dirnet.plan(classifier, ratio=5, dim={"seq": 4}, sensitivity="none", progress=False)
    assert {entry.filename for entry in caught} == {__file__}


def test_progress_goes_to_stderr_or_nowhere(loaded, capfd):
    loaded.plan(ratio=5, sensitivity="none")
    assert "allocate ..." in capfd.readouterr().err
    loaded.plan(ratio=5, **{key: QUICK[key] for key in ("sensitivity", "progress")})
    assert capfd.readouterr() == ("", "")


def test_a_plan_is_saved_edited_and_applied(loaded, tmp_path):
    plan = loaded.plan(ratio=5, save=tmp_path / "plan.toml", sensitivity="none", progress=False)
    assert plan.command == "plan" and plan.model.output is None and len(plan.units) == 9
    small = loaded.compress(plan=tmp_path / "plan.toml", **QUICK)
    assert [unit.codec for unit in small.report.units] == [unit.codec for unit in plan.units]


def test_a_sweep_is_a_table_a_plot_and_a_knee(loaded):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep = loaded.sweep([3, 5, 6, 500], **QUICK)
    assert [point.target for point in sweep.points] == [3, 5, 6, 500]
    assert sweep.points[3].ratio is None and "no plan makes a file" in sweep.points[3].reason
    losses = [point.loss for point in sweep.measured()]
    assert len(losses) == 3 and losses == sorted(losses)
    assert sweep.knee() in sweep.measured()
    table = sweep.to_pandas()
    assert list(table["target"]) == [3, 5, 6, 500] and table["loss"].isna().tolist() == [False, False, False, True]
    axes = sweep.plot()
    assert list(axes.lines[0].get_ydata()) == losses
    assert "<iframe" in sweep._repr_html_()


def test_the_knee_is_where_the_loss_begins_to_rise():
    def sweep(losses):
        points = [{"target": ratio, "ratio": ratio, "loss": loss} for ratio, loss in losses]
        return dirnet.Sweep.of({"points": points})

    assert sweep([(4, 1e-4), (8, 1e-3), (12, 5e-3), (16, 1e-1)]).knee().ratio == 12
    assert sweep([(4, 0.1), (8, 0.2), (12, 0.9), (16, 1.0)]).knee().ratio == 8
    assert sweep([(8, 0.1), (4, 0.01)]).knee().ratio == 4
    with pytest.raises(ValueError, match="no point"):
        sweep([]).knee()


def test_inspect_and_expand(small, tmp_path):
    found = small.inspect()
    assert [port["name"] for port in found.inputs] == ["features"] and not found.folded_back and found.made_by
    dense = small.expand(tmp_path / "dense.onnx")
    assert dense.stat().st_size > 2 * small.size
    dirnet.verify(small, dense, [{"features": models.clips(1, seed=5)[0]}], checks={"max_abs": 1e-3}, progress=False)
    again = dirnet.expand(small.path, tmp_path / "again.onnx", progress=False)
    assert again.read_bytes() == dense.read_bytes()
    assert small.save(tmp_path / "copy.onnx").read_bytes() == small.read_bytes()
    assert small.to_onnx().graph.input[0].name == "features"


def test_a_file_that_was_folded_back_is_found(small, classifier, tmp_path, capsys):
    from dirnet import folded

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "dense.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(str(small.path), options, providers=["CPUExecutionProvider"])
    assert folded.main([str(small.path), str(classifier)]) == 0 and capsys.readouterr() == ("", "")
    assert folded.main([str(small.path), str(tmp_path / "dense.onnx"), "none.onnx"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "dense.onnx: an optimiser folded" in lines[0] and "none.onnx: No such file" in lines[1]


def test_a_metric_of_the_user_judges(loaded, small):
    clip = models.clips(1, seed=6)[0]

    def metric(session):
        assert isinstance(session, onnxruntime.InferenceSession)
        return session.run(["logits"], {"features": clip})[0].max()

    judged = loaded.judge(metric, small)
    assert [point.name for point in judged.points] == ["original", f"ratio {small.report.weights.ratio:.3g}"]
    assert judged.original == metric(loaded.session()) and judged.changes == [metric(small.session()) - judged.original]
    assert small.judge(metric).points == judged.points
    table = loaded.judge(metric, ratios=[3, 5], **QUICK).to_pandas()
    assert table["bytes"].is_monotonic_decreasing and len(table) == 3


def test_config_and_labels(loaded, classifier, tmp_path):
    # Not above the model, where every call would read it.
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "dirnet.toml").write_text("ratio = 5\nsensitivity = 'none'\ntune = 'off'\nmin_snr = ['logits:90']\n")
    with pytest.raises(dirnet.CheckFailed):
        loaded.compress(config=tmp_path / "ci" / "dirnet.toml", progress=False)
    clips = models.clips(6, seed=1)
    labels = {"logits": np.zeros((6, 12, 1), np.int64)}
    small = dirnet.compress(
        classifier,
        ratio=5,
        calibration=[{"features": clip} for clip in clips],
        holdout=[{"features": clip} for clip in clips],
        labels=labels,
        holdout_labels=labels,
        loss={"logits": "cross-entropy"},
        **QUICK,
    )
    assert set(small.report.verify["logits"].cross_entropy) == {"original", "compressed"}
    engine = small.check(engine="onnxruntime").verify["logits"].cross_entropy
    assert engine == pytest.approx(small.report.verify["logits"].cross_entropy, rel=1e-5)


def test_reports_of_newer_commands_are_read():
    raw = {
        "schema": 1,
        "command": "compress",
        "verdict": {"ship": True},
        "model": {"path": "m", "bytes_before": 9, "new": 1},
        "verify": {"passed": True, "outputs": [{"name": "y", "snr_db": None, "median": 2.0}], "suggested": ["--min-snr 20"]},
    }
    report = dirnet.Report.of(raw)
    assert report.raw["verdict"] == {"ship": True} and report.model.raw["new"] == 1 and report.model.bytes_before == 9
    assert report.verify.raw["suggested"] == ["--min-snr 20"] and report.verify["y"].raw["median"] == 2.0
    assert report.verify["y"].snr_db is None and report.units == [] and report.weights is None


def test_reports_are_saved(small, tmp_path):
    small.report.save(tmp_path / "r.json")
    small.report.save(tmp_path / "r.html")
    assert json.loads((tmp_path / "r.json").read_text()) == small.report.raw
    assert (tmp_path / "r.html").read_text() == small.report.html
    with pytest.raises(ValueError, match="unknown type of report"):
        small.report.save(tmp_path / "r.txt")


def test_a_missing_package_is_named(loaded, small, monkeypatch):
    for package, use in [
        ("onnxruntime", small.session),
        ("onnx", small.to_onnx),
        ("pandas", small.judge(lambda _: 0.0).to_pandas),
        ("matplotlib", dirnet.Sweep().plot),
    ]:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(dirnet.MissingPackage, match=f"needs the package {package}: pip install {package}"):
                use()


def test_the_binary_is_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DIRNET_BINARY", str(tmp_path / "none"))
    with pytest.raises(dirnet.DirnetError, match="which is not a file"):
        dirnet.inspect("m.onnx")


SLOW = """
    import signal, sys, dirnet

    # What runs in the background of a shell starts with the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fixtures, out = sys.argv[1:]
    def progress(line):
        print(line, flush=True)
    dirnet.compress(
        fixtures + "/charlm/lstm256.onnx",
        out,
        ratio=8,
        calibration=fixtures + "/charlm/calibration.npz",
        tune="full",
        progress=progress,
    )
"""


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid), "dirnet"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.parametrize("whole_group", [False, True], ids=["kernel", "terminal"])
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_ends_the_command_and_leaves_no_files(tmp_path, whole_group):
    """A notebook's kernel alone gets the signal, or, from a terminal, the command gets it too."""
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    out.mkdir()
    temporary.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW), str(FIXTURES), str(out / "s.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert child.stdout.readline().startswith("calibrate")
    (command,) = _children(child.pid)
    workers = _children(command)
    assert workers, "the command has a worker"
    start = time.monotonic()
    if whole_group:
        os.killpg(child.pid, signal.SIGINT)
    else:
        os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert child.returncode != 0 and "KeyboardInterrupt" in errors
    assert not _alive(command)
    deadline = time.monotonic() + 5
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
    assert list(out.iterdir()) == [] and list(temporary.iterdir()) == []


def test_an_exception_in_progress_ends_the_command(loaded, tmp_path):
    def stop(line):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        loaded.compress(tmp_path / "s.onnx", ratio=5, tune="full", progress=stop)
    assert not (tmp_path / "s.onnx").exists() and _children(os.getpid()) == []
