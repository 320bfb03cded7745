"""What setup.py builds: with and without compilers, and as FASTINPAINT_CUDA and FASTINPAINT_CUDA_ARCHS ask. No compiler
runs; the rules for ninja are read."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import setuptools

from tools.verify.wide.__main__ import setup_script

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py with both compilers and default options."""
    module = setup_script()
    for name in ("FASTINPAINT_CUDA", "FASTINPAINT_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "find_cxx", lambda: "/bin/g++")
    monkeypatch.setattr(module, "find_nvcc", lambda: "/cuda/bin/nvcc")
    return module


def libraries(rules: list[str]) -> list[str]:
    return [Path(line.split()[1]).name for line in rules if line.startswith("default")]


def codes(rules: list[str], unit: str) -> list[str]:
    """The architectures that a CUDA unit is compiled for."""
    at = next(i for i, line in enumerate(rules) if line.startswith("build") and line.endswith(unit))
    return re.findall(r",code=(\w+)", rules[at + 1])


def test_both_libraries_are_built_for_every_architecture(script: ModuleType) -> None:
    rules = script.ninja_rules(Path("out"), Path("build"))
    assert libraries(rules) == ["libfastinpaint_cuda.so", "libfastinpaint_cpu.so"]
    assert codes(rules, "conv_block/cuda/fwd_dgrad.cu") == ["sm_80", "sm_90a", "compute_80"]
    assert codes(rules, "conv_block/cuda/hopper/launch.cu") == ["sm_90a"]


@pytest.mark.parametrize(
    ("asked", "code", "hopper"),
    [("80", ["sm_80", "compute_80"], False), ("90a;120", ["sm_90a", "sm_120", "compute_90"], True)],
)
def test_the_architectures_can_be_chosen(
    asked: str, code: list[str], hopper: bool, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTINPAINT_CUDA_ARCHS", asked)
    rules = script.ninja_rules(Path("out"), Path("build"))
    assert codes(rules, "conv_block/cuda/fwd_dgrad.cu") == code
    assert any("/hopper/" in line for line in rules) == hopper
    link = rules[rules.index("rule link_cuda") + 1]
    assert re.findall(r",code=(\w+)", link) == code


def test_every_unit_is_made_into_ptx_once(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes longer than making machine code of it. A unit takes about two CPU-seconds beside its kernels."""
    for asked in (script.ARCHITECTURES, "100;90a;80"):
        monkeypatch.setenv("FASTINPAINT_CUDA_ARCHS", asked)
        rules = script.ninja_rules(Path("out"), Path("build"))
        units = [line for before, line in itertools.pairwise(rules) if before.endswith(".cu")]
        assert len(units) == 6
        for unit in units:
            assert set(re.findall(r"arch=(\w+)", unit)) in ({"compute_80"}, {"compute_90a"})


@pytest.mark.parametrize("asked", ["sm_90", "75", "80,90a", "80;", ""])
def test_a_wrong_architecture_is_named(asked: str, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CUDA_ARCHS", asked)
    with pytest.raises(SystemExit) as stopped:
        script.ninja_rules(Path("out"), Path("build"))
    wrong = next(name for name in asked.split(";") if name != "80")
    assert stopped.value.code == (
        f"FASTINPAINT_CUDA_ARCHS must name architectures from 80 on, as 80;90a, got {wrong!r}."
    )


def test_cuda_can_be_left_out(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CUDA", "0")
    rules = script.ninja_rules(Path("out"), Path("build"))
    assert libraries(rules) == ["libfastinpaint_cpu.so"]
    assert not any("nvcc" in line or ".cu" in line for line in rules)


def test_cuda_can_be_insisted_on(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CUDA", "1")
    assert "libfastinpaint_cuda.so" in libraries(script.ninja_rules(Path("out"), Path("build")))
    monkeypatch.setattr(script, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match=r"^FASTINPAINT_CUDA=1, but no nvcc was found in CUDA_HOME, on PATH or in"):
        script.ninja_rules(Path("out"), Path("build"))


def test_a_wrong_switch_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CUDA", "yes")
    with pytest.raises(SystemExit, match=r"^FASTINPAINT_CUDA must be 0 or 1, got 'yes'\.$"):
        script.ninja_rules(Path("out"), Path("build"))


def test_without_nvcc_the_rest_is_built(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "find_nvcc", lambda: None)
    assert libraries(script.ninja_rules(Path("out"), Path("build"))) == ["libfastinpaint_cpu.so"]
    assert capfd.readouterr().err == "fastinpaint: no compiler for the cuda kernels: installed without them\n"


def test_without_any_compiler_the_package_installs(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "find_nvcc", lambda: None)
    monkeypatch.setattr(script, "find_cxx", lambda: None)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: pytest.fail("nothing is left to run"))
    command = script.BuildKernels(setuptools.Distribution())
    command.build_lib, command.inplace = str(tmp_path), False
    command.run()
    assert not list((tmp_path / "fastinpaint").iterdir())


def test_nvcc_of_cuda_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = setup_script()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert module.find_nvcc() == str(nvcc)


def test_vectors_are_parsed_once_for_each_instruction_set(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def rules_of(cxx: str) -> list[str]:
        monkeypatch.setattr(script, "find_cxx", lambda: cxx)
        return script.ninja_rules(Path("out"), Path("build"))

    rules = rules_of("/bin/g++")
    assert sum(line.startswith("build") and ".h.gch: " in line for line in rules) == len(
        {**script.ISAS, **script.BF16_ISAS}
    )
    for line, extra in itertools.pairwise(rules):
        if line.startswith("build") and "_simd" in line and ".o: " in line:
            header = line.split(" | ")[1].removesuffix(".gch")
            assert extra.endswith(f"-include {header}")
    assert not any(".gch" in line for line in rules_of("/bin/clang++"))


def test_the_cpu_library_grows_no_more() -> None:
    """Its size stands for what compiling it takes: 6.3 MB took three fifths more."""
    library = ROOT / "fastinpaint" / "libfastinpaint_cpu.so"
    if not library.exists():
        pytest.skip("the CPU kernels are not built")
    assert library.stat().st_size < 3_700_000


def test_kernels_carry_line_numbers_for_profilers_and_sanitizers(script: ModuleType) -> None:
    compile_flags, _ = script.cuda_flags("/cuda/bin/nvcc")
    assert "-lineinfo" in compile_flags


def test_the_source_distribution_holds_what_the_build_reads(tmp_path: Path) -> None:
    """In a folder that holds nothing else, the extracted archive names its version and writes the rules for ninja."""
    copy = tmp_path / "copy"
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in listed:  # setuptools would also read what an earlier build left
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path], cwd=copy, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    root = next(path.parent for path in tmp_path.glob("*/PKG-INFO"))
    packed = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert {name for name in listed if name.startswith("csrc/")} <= packed
    assert not any(name.endswith(".so") or name.startswith("tests/") for name in packed)
    script = (
        "import setuptools, pathlib; setuptools.setup = lambda **_: None\n"
        "import setup; print(*setup.ninja_rules(pathlib.Path('out'), pathlib.Path('build')), sep='\\n')"
    )
    (root / "build").mkdir()
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    rules = subprocess.check_output([sys.executable, "-c", script], cwd=root, env=alone, text=True)
    assert "ninja_required_version" in rules
