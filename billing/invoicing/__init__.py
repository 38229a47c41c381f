"""From rated lines to an invoice: what is due on each line, sums, the carried residual, numbers."""
