"""Pictures with a palette of their own, as GIF holds them."""

from __future__ import annotations

from typing import Any

import av


def with_palette(picture: Any) -> Any:
    """A picture in pal8 with the up to 256 colours that suit it best; one of fewer colours keeps them all."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
    )
    split = graph.add("split")
    colours = graph.add("palettegen", "stats_mode=single:reserve_transparent=1")
    use = graph.add("paletteuse", "new=1:dither=none")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(colours, 1, 0)
    colours.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    source.push(picture)
    source.push(None)
    indexed = graph.vpull()
    indexed.pts, indexed.time_base = picture.pts, picture.time_base
    return indexed
