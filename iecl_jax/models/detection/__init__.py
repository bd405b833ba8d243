"""Faster R-CNN with a feature pyramid, in static shapes, after the rules of torchvision.

`faster_rcnn` is the detector; the other files are its rules, one each. Boxes are float32 (x1, y1,
x2, y2), in pixels of the canvas on which the image lies at the top left.
"""
