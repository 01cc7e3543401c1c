"""The systems that are compared: what differs between networks, fusion by decision, features, the scaler's rows."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_people import made_config, made_person, without
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from device.pipeline.features import FEATURES, columns, features
from train.config import System
from train.errors import LeakError
from train.evaluate import Material
from train.fit import MASKS, FitConfig, network
from train.models import classical
from train.models.acc import ACC, AccConfig
from train.models.ecg_transformer import TransformerConfig
from train.models.emobed import EmoBedConfig
from train.objective import NO_CROSSMODAL, Crossmodal
from train.prepare import MAX_BRIDGED
from train.systems import (
    DECISION_FUSION,
    ENCODING,
    NETWORKS,
    PARTS,
    PROBES,
    TRANSFORMERS,
    WITH_EMBEDDING,
    asked,
    assert_scaled_on,
    classical_model,
    crossmodal,
    feature_table,
    fit_config,
    fused,
    masks_of,
    network_config,
    shown_features,
    sweeps,
)

SPEC = made_config().longest()


def test_every_system_of_the_configuration_is_known() -> None:
    assert set(get_args(System)) == {*NETWORKS, DECISION_FUSION, *classical.SYSTEMS, *PROBES}
    assert set(PARTS.values()) <= set(NETWORKS)


def test_networks_differ_in_what_they_are_named_for_and_in_nothing_else() -> None:
    base = AccConfig(n_outputs=3, widths=(4, 5), stages=(1,))
    found = {name: network_config(name, base) for name in NETWORKS if name not in TRANSFORMERS}
    assert found["acc"] == base
    for name, config in found.items():
        encoder = config.encoder if name in ENCODING else None
        assert vars(replace(base, **NETWORKS[name].model, encoder=encoder)).items() <= vars(config).items()
        assert (config.encoder is None) == (name not in ENCODING)
        assert isinstance(config, EmoBedConfig) == (name in WITH_EMBEDDING)
        assert (config.n_outputs, config.widths) == (3, (4, 5))
    graphs = {name: {n.split(".")[0] for n, _ in network(c).named_parameters()} for name, c in found.items()}
    assert not any(n.endswith("gate.weight") for n, _ in ACC(found["unattended"]).named_parameters())
    assert "connections" in graphs["unattended"]
    assert all("connections" not in graphs[name] for name in ("feature-fusion", "ecg-only", "eda-only"))


def test_a_transformer_is_the_encoder_s_with_the_task_s_outputs() -> None:
    encoder, base = TransformerConfig(width=16, heads=2, layers=1), AccConfig(n_outputs=3, eda_times=240, dropout=0.1)
    wanted = replace(encoder, n_outputs=3, eda_times=240, dropout=0.1)
    assert [network_config(name, base, encoder=encoder) for name in TRANSFORMERS] == [wanted] * 2
    assert [NETWORKS[name].is_pretrained for name in TRANSFORMERS] == [True, False]
    inside = [network_config(name, base, encoder=encoder) for name in ENCODING if name not in TRANSFORMERS]
    assert [config.encoder for config in inside] == [wanted] * 2


def test_a_teacher_is_there_before_its_student() -> None:
    order = list(NETWORKS)
    taught = {name: network.teacher for name, network in NETWORKS.items() if network.teacher}
    assert taught == {"emobed-distilled": "emobed-transformer"}
    assert all(order.index(teacher) < order.index(name) for name, teacher in taught.items())


def test_a_network_of_one_sensor_is_asked_with_that_sensor_only() -> None:
    assert masks_of("ecg-only") == {"ecg": (1.0, 0.0)}
    assert masks_of("eda-only") == {"eda": (0.0, 1.0)}
    assert all(masks_of(s) == {"ecg": (1.0, 0.0)} for s in (*TRANSFORMERS, *PROBES))
    several = [s for s in get_args(System) if not s.endswith("-only") and s not in (*TRANSFORMERS, *PROBES)]
    assert all(masks_of(s) == MASKS for s in several)


def test_emobed_s_ablation_leaves_out_one_thing_each() -> None:
    """Joint, triplet, sensors hidden at random: what each system is trained with."""
    chosen, fits = Crossmodal(joint=0.7, triplet=0.2, margin=0.5), FitConfig()
    like_emobed = ("emobed-transformer", "emobed-transformer-scratch", "emobed-distilled")
    found = {s: crossmodal(s, chosen) for s in NETWORKS}
    hidden = {s: fit_config(s, fits).augmentation.modality_dropout > 0 for s in NETWORKS}
    assert {s: (c.joint, c.triplet, hidden[s]) for s, c in found.items() if s in WITH_EMBEDDING} == {
        "emobed": (0.7, 0.2, False),
        "emobed-joint": (0.7, 0.0, False),
        "emobed-triplet": (0.0, 0.2, False),
        "emobed-neither": (0.0, 0.0, False),
        "modality-dropout": (0.0, 0.0, True),
        "emobed-ecg-only": (0.0, 0.0, True),
        "emobed-eda-only": (0.0, 0.0, True),
        **dict.fromkeys(like_emobed, (0.7, 0.2, False)),
    }
    assert {c.margin for s, c in found.items() if s in WITH_EMBEDDING} == {0.5}
    assert all(found[s] == NO_CROSSMODAL and fit_config(s, fits) == fits for s in NETWORKS if s not in WITH_EMBEDDING)
    assert [s for s in (*NETWORKS, "decision-fusion") if sweeps(s)] == [
        "emobed", "emobed-joint", "emobed-triplet", *like_emobed,
    ]  # fmt: skip


def test_a_window_is_asked_where_the_mask_shows_something_of_it() -> None:
    """Of 14 labelled windows one has no EDA, one no ECG, one ECG mostly bridged, one neither."""
    person = without(without(made_person("P0"), "eda", slice(0, 2)), "ecg", slice(1, 3))
    bridged = np.where(np.arange(15) == 5, MAX_BRIDGED + 0.01, MAX_BRIDGED)
    people = [replace(person, bridged=bridged), made_person("P1")]
    windows = Material(people, made_config(), "cold_start").windows((60.0, 60.0))
    lacks = {"both": {1}, "ecg": {1, 2, 5}, "eda": {0, 1}}
    for mask, absent in lacks.items():
        assert asked(windows, "P0", MASKS[mask]).tolist() == [i for i in range(14) if i not in absent]
    hidden = replace(windows, is_scored=np.arange(28) >= 8)
    assert asked(hidden, "P0", MASKS["ecg"]).tolist() == list(range(8, 14))


probability = st.floats(0, 1).map(lambda p: (1 - p, p))
rows = st.lists(
    st.tuples(probability, probability, st.sampled_from([(True, True), (True, False), (False, True)])), min_size=1
)


@given(rows)
def test_fusion_by_decision_is_the_mean_of_both_or_the_one_there_is(rows: list[tuple]) -> None:
    ecg, eda = (np.array([row[i] for row in rows]) for i in (0, 1))
    has_ecg, has_eda = (np.array([row[2][i] for row in rows]) for i in (0, 1))
    found = fused(ecg, eda, has_ecg, has_eda)
    assert np.allclose(found.sum(axis=1), 1)
    both = has_ecg & has_eda
    assert np.allclose(found[both], (ecg[both] + eda[both]) / 2)
    assert np.array_equal(found[~has_eda], ecg[~has_eda])
    assert np.array_equal(found[~has_ecg], eda[~has_ecg])
    assert np.allclose(fused(eda, ecg, has_eda, has_ecg), found)


def test_features_are_the_devices_of_the_windows_end_and_unknown_where_a_sensor_is_absent() -> None:
    person = without(made_person("P0"), "eda", slice(2, 3))
    short = Material([person], made_config(), "cold_start").spec((60.0, 60.0))
    table = feature_table(person, np.array([4, 2]), short, None)
    assert table.shape == (2, len(FEATURES))
    expected = features({"ecg": person.ecg[4], "eda": person.eda[4, -240:]}, short)
    assert np.array_equal(table[0], expected)
    assert np.isnan(table[1, columns("eda")]).all() and np.isfinite(table[1, columns("ecg")]).all()
    assert not np.array_equal(table[0], feature_table(person, np.array([4]), SPEC, None)[0])


def test_calibrated_features_are_less_their_mean_at_rest() -> None:
    person, rest = made_person("P0"), np.arange(15) < 5
    plain = feature_table(person, np.arange(15), SPEC, None)
    found = feature_table(person, np.arange(15), SPEC, rest)
    assert np.allclose(found[:5].mean(axis=0), 0, atol=1e-8)
    assert np.allclose(found - plain, found[0] - plain[0], atol=1e-8)


def test_a_sensor_not_worn_at_rest_leaves_its_features_as_they_are() -> None:
    rest = np.arange(15) < 5
    person = without(made_person("P0"), "eda", slice(0, 5))
    plain, found = (feature_table(person, np.arange(5, 15), SPEC, b) for b in (None, rest))
    assert np.array_equal(found[:, columns("eda")], plain[:, columns("eda")])
    assert not np.allclose(found[:, columns("ecg")], plain[:, columns("ecg")])
    one = without(made_person("P0"), "eda", slice(1, 5))  # a single resting window with EDA
    assert np.isfinite(feature_table(one, np.arange(5, 15), SPEC, rest)).all()


def test_a_mask_shows_the_columns_of_its_sensor() -> None:
    table = np.arange(2.0 * len(FEATURES)).reshape(2, -1)
    assert np.array_equal(shown_features(table, "both"), table)
    parts = [shown_features(table, m) for m in ("ecg", "eda")]
    assert np.array_equal(np.concatenate(parts, axis=1), table)


def made_rows(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three classes along the first column; some unknown, one column never known."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.normal(0, 1, (n, 4))
    x[:, 0] += 4 * y
    x[::7, 1] = np.nan
    x[:, 3] = np.nan
    return x, y


@pytest.mark.parametrize("system", classical.SYSTEMS)
def test_classical_systems_fill_scale_and_tell_any_number_of_classes(system: str) -> None:
    x, y = made_rows(120)
    model = classical_model(system, 0, 3).fit(x, y)
    assert_scaled_on(model, x, "honest")
    probability = model.predict_proba(x)
    assert probability.shape == (120, 3) and np.allclose(probability.sum(axis=1), 1)
    assert (probability.argmax(axis=1) == y).mean() > 0.85
    assert np.array_equal(probability, classical_model(system, 0, 3).fit(x, y).predict_proba(x))


@pytest.mark.parametrize("system", classical.SYSTEMS)
def test_a_scaler_fitted_on_more_or_others_is_caught(system: str) -> None:
    x, y = made_rows()
    others = np.random.default_rng(1).normal(1, 1, x.shape)
    for planted in (np.concatenate([x, others]), others, x[:-1]):
        model = classical_model(system, 0, 3).fit(x, y)
        place = next(i for i, (_, step) in enumerate(model.steps) if isinstance(step, StandardScaler))
        model.steps[place] = ("standardscaler", StandardScaler().fit(model[0].transform(planted)))
        with pytest.raises(LeakError, match="fold P0: the scaler"):
            assert_scaled_on(model, x, "fold P0")


def test_an_imputer_fitted_on_others_is_caught() -> None:
    x, y = made_rows()
    model = classical_model("classical-lda", 0, 3).fit(x, y)
    model.steps[0] = (model.steps[0][0], clone(model[0]).fit(np.concatenate([x, x + 3])))
    with pytest.raises(LeakError, match="median of the training rows"):
        assert_scaled_on(model, x, "fold P0")
