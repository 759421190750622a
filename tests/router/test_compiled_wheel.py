"""The wheel with the hot path as native code: only where it is asked for, and then whole."""

from __future__ import annotations

import importlib.util

import pytest

from router import compiled

spec = importlib.util.spec_from_file_location("hatch_build", compiled.ROOT / "hatch_build.py")
hatch_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hatch_build)


@pytest.fixture
def data(monkeypatch):
    """What the builder starts with; compiling writes what it would, without a compiler."""

    def build(root, modules, *, out):
        assert root == compiled.ROOT
        (out / "router").mkdir()
        (out / "router/ledger.cpython-311-x86_64-linux-gnu.so").write_bytes(b"native")
        (out / "router/compiled.sha256").write_text(compiled.digest(root, modules))

    monkeypatch.setattr(compiled, "build", build)
    return {"force_include": {}, "pure_python": True}


@pytest.fixture
def hook():
    made = hatch_build.NativeHotPath(str(compiled.ROOT), {}, None, None, "dist", "wheel")
    yield made
    made.finalize("standard", {}, "")


@pytest.mark.parametrize(("wish", "version"), [(None, "standard"), ("0", "standard"), ("1", "editable")])
def test_a_wheel_is_plain_python_unless_native_code_is_asked_for(monkeypatch, data, hook, wish, version):
    monkeypatch.delenv(hatch_build.WISH, raising=False)
    if wish is not None:
        monkeypatch.setenv(hatch_build.WISH, wish)
    hook.initialize(version, data)
    assert data == {"force_include": {}, "pure_python": True}
    assert bool(hook.dependencies()) == (wish == "1")


def test_a_wheel_with_native_code_is_for_one_platform_and_holds_what_was_compiled(monkeypatch, data, hook):
    monkeypatch.setenv(hatch_build.WISH, "1")
    hook.initialize("standard", data)
    assert data["pure_python"] is False
    assert data["infer_tag"] is True
    assert set(data["force_include"].values()) == {
        "router/ledger.cpython-311-x86_64-linux-gnu.so", "router/compiled.sha256",
    }  # fmt: skip


def test_another_wish_is_refused(monkeypatch, data, hook):
    monkeypatch.setenv(hatch_build.WISH, "yes")
    with pytest.raises(ValueError, match="LLM_FLEET_COMPILE"):
        hook.initialize("standard", data)
