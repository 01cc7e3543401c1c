"""The classical models that networks are to beat: linear discriminant, logistic regression, forest, boosted trees.

Knows nothing of features, windows or people; every statistic is fitted where ``fit`` is called, inside the fold.
"""

from __future__ import annotations

from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SYSTEMS = ("classical-lda", "classical-lr", "classical-rf", "classical-gb")


def make(system: str, seed: int, n_outputs: int = 2) -> Steps:
    """An unfitted classifier with its own scaler; all classes weigh the same in each."""
    kinds: dict[str, ClassifierMixin] = {
        "classical-lda": LinearDiscriminantAnalysis(
            priors=[1 / n_outputs] * n_outputs, solver="lsqr", shrinkage="auto"
        ),
        "classical-lr": LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000),
        "classical-rf": RandomForestClassifier(
            100, min_samples_leaf=10, class_weight="balanced_subsample", random_state=seed, n_jobs=1
        ),
        "classical-gb": HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=20, l2_regularization=1.0,
            class_weight="balanced", early_stopping=False, random_state=seed,
        ),
    }  # fmt: skip
    return make_pipeline(StandardScaler(), kinds[system])
