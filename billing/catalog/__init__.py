"""What is sold and to whom: charges, price plans, contracts."""
