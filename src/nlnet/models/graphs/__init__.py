"""Videos as space-time region graphs (Wang and Gupta, ECCV 2018): networks that relate the regions of a clip."""
