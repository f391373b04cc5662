"""The wheel: both halves in it, and its runtime alone runs what the compiler made elsewhere.

The virtual environment holds the wheel (installed without its dependencies) and numpy. numpy is the one that runs
these tests, linked in through a `.pth` file, so that no index is asked and no other package comes along with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]

LOADED = """
import importlib.util, json, sys
import ingot.runtime
print(json.dumps({
    "found": [name for name in ("onnx", "llvmlite", "ml_dtypes", "pytest") if importlib.util.find_spec(name)],
    "loaded": sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names),
    "compiler": [name for name in sys.modules if name.startswith("ingot.compiler")],
    "where": ingot.runtime.__file__,
}))
"""

RUN = """
import sys
import numpy as np
from ingot.runtime import Session
artifact, given, wanted = sys.argv[1:]
with np.load(given) as inputs:
    np.savez(wanted, **Session(artifact, threads=1).run(dict(inputs)))
assert "onnx" not in sys.modules and "llvmlite" not in sys.modules
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; its whole output is shown when it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel and numpy in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    interpreter = folder / "venv" / "bin" / "python"
    install = ("-m", "pip", "--python", interpreter, "install", "--no-index", "--no-deps", wheel)
    run(sys.executable, *install, cwd=folder)

    # numpy finds its libraries in the folder beside it, so both are linked, and nothing else of that environment.
    linked = folder / "numpy"
    linked.mkdir()
    installed = Path(np.__file__).parents[1]
    for part in (installed / "numpy", *installed.glob("numpy.libs")):
        (linked / part.name).symlink_to(part)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "numpy.pth").write_text(f"{linked}\n")
    return interpreter


def test_wheel_holds_both_halves(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()

    sources = {
        path.relative_to(half).as_posix()
        for half in (ROOT / "compiler", ROOT / "runtime")
        for path in half.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if not name.startswith(info)} == sources
    assert {"ingot/compiler/demo/digits.onnx", "ingot/compiler/demo/digits_heldout.npz"} <= names
    assert f"{info}/licenses/LICENSE" in names
    assert "ingot = ingot.compiler.cli:main" in entry_points
    assert metadata["Name"] == "ingot" and metadata["License-Expression"] == "Apache-2.0"
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needed == ["numpy>=2"]


def test_runtime_imports_with_numpy_alone(python: Path, tmp_path: Path) -> None:
    state = json.loads(run(python, "-I", "-c", LOADED, cwd=tmp_path))
    assert state["found"] == []
    assert set(state["loaded"]) <= {"__main__", "_virtualenv", "ingot", "numpy"}
    assert state["compiler"] == []
    assert Path(state["where"]).is_relative_to(python.parents[1])


def test_artifact_compiled_elsewhere_runs_there(python: Path, tmp_path: Path) -> None:
    from ingot.compiler import compile
    from ingot.compiler.demo import held_out, model_path
    from ingot.runtime import Session

    artifact = tmp_path / "digits.ingot"
    compile(model_path()).save(artifact)
    x, y = held_out()
    expected = Session(artifact, threads=1).run({"image": x})
    assert (expected["logits"].argmax(1) == y).mean() >= 0.98

    np.savez(tmp_path / "given.npz", image=x)
    run(python, "-I", "-c", RUN, artifact, tmp_path / "given.npz", tmp_path / "got.npz", cwd=tmp_path)
    with np.load(tmp_path / "got.npz") as got:
        assert set(got) == {"logits"}
        np.testing.assert_array_equal(got["logits"], expected["logits"])
