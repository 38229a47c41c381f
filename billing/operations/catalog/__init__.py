"""Plans and contracts: apply, bind, end; which terms are in force."""
