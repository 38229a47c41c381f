"""From quantities to exact amounts, with an explanation a person can redo by hand."""
