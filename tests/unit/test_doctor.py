import shutil
from dataclasses import replace

from patchline import config
from patchline.banks import opening, store
from patchline.devices import backbone
from patchline.models import atc_operators
from patchline.operations import doctor
from patchline.operations.findings import State


def test_blas_kernels_for_an_older_cpu_are_reported_with_advice(monkeypatch):
    monkeypatch.setattr(doctor.exact_search, "blas_kernels", lambda: ("faiss_cpu:Barcelona", "numpy:SkylakeX"))
    (finding,) = doctor._products(["avx2", "avx512f"])
    assert "in use are faiss_cpu:Barcelona, numpy:SkylakeX; set OPENBLAS_CORETYPE=SkylakeX" in finding.text
    assert list(doctor._products([])) == []
    monkeypatch.setattr(doctor.exact_search, "blas_kernels", lambda: ("faiss_cpu:Haswell", "numpy:SkylakeX"))
    assert list(doctor._products(["avx2", "avx512f"])) == []


def test_categories_in_f32_are_named_on_a_cpu_that_is_faster_in_bf16(tmp_path):
    category = {"backbone": "efficientnet_lite0", "layer": "blocks4+10", "resize": 64, "imagesize": 64}
    of = {"slow": category, "fast": category | {"precision": "bf16"}, "new": category | {"backbone": "missing"}}
    settings = config.Config.model_validate({"categories": of, "paths": {"models": tmp_path}})
    (finding,) = doctor._faster_precision(settings, ["avx512_bf16", "amx_bf16"])
    assert (finding.state, finding.text.startswith("in f32: slow; set precision: bf16")) == (State.NOTE, True)
    assert list(doctor._faster_precision(settings, ["avx512_bf16"])) == []


def test_a_category_is_loaded_with_the_bank_that_a_worker_would_serve(plant, tmp_path):
    settings, own = config.load(plant / "config.yaml"), plant / "faiss-index-precision"
    paths = settings.paths.model_copy(update={"memory_banks": tmp_path / "none", "served_banks": tmp_path / "served"})
    banks = config.Banks(store=tmp_path / "store")
    settings = settings.model_copy(update={"paths": paths, "banks": banks})

    def found():
        (finding,) = doctor.categories(settings, backbone.CPU)
        return finding.state, finding.text

    versions = opening.versions(settings)
    versions.make()
    version, _ = versions.publish(own / "brick", "brick", "anna", "why")
    assert found()[0] is State.NOTE  # nothing is active yet
    versions.activate("brick", version, "anna", "why")
    state, text = found()
    assert (state, f"version {version[:12]} of the store" in text, text.endswith("ready")) == (State.OK, True, True)
    assert not (tmp_path / "served").exists()
    index = tmp_path / "store" / "brick" / "versions" / version / store.INDEX_FILE
    index.chmod(0o600)
    index.write_bytes(b"damaged")
    assert found()[0] is State.PROBLEM
    (tmp_path / "store").rename(tmp_path / "away")  # and this host has never served any
    assert found()[0] is State.PROBLEM
    shutil.copytree(own / "brick", tmp_path / "served" / "brick" / version)
    (tmp_path / "served" / "brick" / "served.json").write_text(f'{{"version": "{version}"}}')
    state, text = found()
    assert (state, "this host served last" in text) == (State.OK, True)


def test_models_for_the_ascend_are_held_against_the_operators_of_cann(tmp_path, monkeypatch):
    monkeypatch.setenv("MX_SDK_HOME", str(tmp_path))
    category = {"backbone": "efficientnet_lite0", "layer": "blocks4+10", "resize": 64, "imagesize": 64}
    paths = {"models": tmp_path / "models"}
    settings = config.Config.model_validate({"categories": {"brick": category}, "paths": paths})
    operators, om = doctor._ascend_models(settings)
    assert (operators.subject, operators.state) == ("efficientnet_lite0_64", State.OK)
    assert operators.text == "the ATC of CANN 5.0.4 has all of its operators"
    assert (om.state, "patchline om efficientnet_lite0 --side 64" in om.text) == (State.NOTE, True)
    table = dict(atc_operators.releases()["5.0.4"].operators)
    del table["Clip"]
    poor = replace(atc_operators.releases()["5.0.4"], operators=table)
    monkeypatch.setattr(atc_operators, "release", lambda cann: poor)
    (finding,) = doctor._ascend_models(settings)
    assert "the ATC of CANN 5.0.4 cannot read it: operator Clip is not in the table" in finding.text
    monkeypatch.delenv("MX_SDK_HOME")
    assert list(doctor._ascend_models(settings)) == []
