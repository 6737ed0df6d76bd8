"""Labels in and out: COCO with RLE masks, PNG masks, Label Studio's brush JSON.

All three are pictures of W x H pixels; labels are tokens. Going out, a token becomes its square of pixels. Coming in, a
token takes a class when more than half of its pixels have it. So what badhands wrote comes back exactly, and a mask
drawn by hand elsewhere lands on the nearest tokens.
"""

from badhands.label.exchange.formats import FORMATS, export_labels, import_labels

__all__ = ["FORMATS", "export_labels", "import_labels"]
