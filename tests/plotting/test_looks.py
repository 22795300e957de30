import io

import matplotlib as mpl
import matplotlib.image
import xarray as xr

from didsim import plotting


def test_the_style_is_undone_after_use() -> None:
    before = mpl.rcParams["font.size"]
    with plotting.style():
        assert mpl.rcParams["font.size"] == 8
    assert mpl.rcParams["font.size"] == before


def test_the_style_can_be_kept_for_a_session() -> None:
    with mpl.rc_context():
        plotting.use_style()
        assert mpl.rcParams["font.size"] == 8
    assert mpl.rcParams["font.size"] != 8


def test_figures_show_themselves_with_twice_the_pixels_of_their_place() -> None:
    with plotting.style():
        figure, ax = plotting.new_figure(height=2)
        ax.plot([0, 1], [0, 1])
        shown, place = figure._repr_png_()
    image = mpl.image.imread(io.BytesIO(shown), format="png")
    assert image.shape[:2] == (400, 1100)
    assert place == {"width": 550, "height": 200}
    assert b"Software" not in shown


def test_any_number_of_names_look_different() -> None:
    count = 5 * len(plotting.COLORS) + 2
    looks = plotting.looks_of(range(count))
    assert [looks[name].color for name in range(count)] == [*5 * plotting.COLORS, *plotting.COLORS[:2]]
    first = [looks[name] for name in range(len(plotting.COLORS))]
    # Line styles and markers of the first turn are those of a plot itself.
    assert all(look.line == look.bar == {"color": look.color} and look.marker("s") == "s" for look in first)
    lines = {(one["color"], one.get("linestyle")) for one in (look.line for look in looks.values())}
    dots = {(look.color, look.marker()) for look in looks.values()}
    bars = {(look.color, look.bar.get("hatch")) for look in looks.values()}
    assert len(lines) == len(dots) == len(bars) == count
    assert plotting.color_of(range(count)) == {name: look.color for name, look in looks.items()}


def test_no_line_looks_like_an_exact_limit() -> None:
    _, ax = plotting.new_figure(height=2)
    plotting.plot_limit(ax, xr.DataArray([1.0], dims="seed"))
    (limit,) = ax.lines
    for look in plotting.looks_of(range(4 * len(plotting.COLORS))).values():
        (line,) = ax.plot([0, 1], [0, 1], linewidth=limit.get_linewidth(), **look.line)
        assert line._dash_pattern != limit._dash_pattern
