"""Networks that restore images: NLRN, RNAN, DnCNN."""
