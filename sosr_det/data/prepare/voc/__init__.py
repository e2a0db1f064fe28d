"""PASCAL VOC's devkit and data sets in its format: their lists, annotations and images, and what is wrong with them."""
