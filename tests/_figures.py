"""What tests of figures read back from Axes."""

from matplotlib.colors import to_hex

SOURCE = "Fisher's Iris (150 flowers, scikit-learn)"


def words(texts):
    return [text.get_text() for text in texts]


def legend(ax):
    return words(ax.get_legend().get_texts())


def image(ax):
    return ax.images[-1]


def color_of(ax, value):
    """Red, green and blue of a number in the picture."""
    return image(ax).cmap(image(ax).norm(value))[:3]


def line(curve):
    return [(float(x), float(y)) for x, y in zip(*curve.get_data(), strict=True)]


def band(collection, places):
    """Lower and upper edge of a band at some places."""
    x, y = collection.get_paths()[0].vertices.T
    return [(y[x == place].min(), y[x == place].max()) for place in places]


def of_kind(ax, kind):
    return [collection for collection in ax.collections if type(collection).__name__ == kind]


def marks(ax):
    """The places of each scatter, with its color and the shape of its marks."""
    scatters = of_kind(ax, "PathCollection")
    return [
        (c.get_offsets().tolist(), to_hex(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in scatters
    ]
