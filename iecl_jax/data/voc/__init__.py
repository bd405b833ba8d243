"""Images with masks or boxes, in the folder layout of PASCAL VOC or generated."""
