"""Fisher's irises."""

from __future__ import annotations

from gradembed import _validation
from gradembed.datasets._split import Split, stratified


def load_iris(test_fraction: float = 0.2, seed: int = 42) -> Split:
    """Fisher's 150 irises, stratified into training and test part, standardised by the training part.

    Args:
        test_fraction: Share of the flowers that is held out, between 0.02 (one per class) and 0.9.
        seed: Of the split.

    Returns:
        A split of 4 features (sepal length and width, petal length and width; cm before they are
        standardised to zero mean and unit variance each) and 3 classes.

    Raises:
        ValueError: If ``test_fraction`` is out of range or ``seed`` negative.
        TypeError: If either is no number.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.load_iris()
        Split('iris', 120 training and 30 test samples of 4 features, from Fisher's Iris (150 flowers, scikit-learn))

    References:
        R. A. Fisher (1936), The use of multiple measurements in taxonomic problems.
    """
    from sklearn.datasets import load_iris as sklearn_iris

    _validation.check_number("test_fraction", test_fraction, 0.02, 0.9)
    _validation.check_integer("seed", seed, 0)
    x, y = sklearn_iris(return_X_y=True)
    x_train, x_test, y_train, y_test = stratified(x, y, test_fraction, seed)
    mean, std = x_train.mean(0), x_train.std(0)
    return Split(
        (x_train - mean) / std,
        y_train,
        (x_test - mean) / std,
        y_test,
        "iris",
        "Fisher's Iris (150 flowers, scikit-learn)",
    )
