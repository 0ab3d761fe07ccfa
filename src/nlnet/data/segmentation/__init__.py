"""Images with a class for every pixel, from the folders of Cityscapes, ADE20K and VOC as released, and plain ones."""
