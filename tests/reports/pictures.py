"""The pictures of a samples page, pixel by pixel."""

import base64
import io
import re

import numpy as np
from PIL import Image


def pictures(file):
    """[(alt, CSS width, pixels)] of every picture of a page."""
    found = re.findall(
        r'<figure style="width:(\d+)px"><img src="data:image/png;base64,([^"]+)" alt="([^"]*)">',
        file.read_text(encoding="utf-8"),
    )
    return [
        (alt, int(width), np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
        for width, data, alt in found
    ]
