"""What serving costs and what it earns: cost pools, exact allocation, the margin report."""
