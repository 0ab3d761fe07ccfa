"""What runs say together: the paper's tables with their figures, pages and plots, and the list of a folder's runs."""
