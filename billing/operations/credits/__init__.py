"""Credit: grants, their use, expiry and renewal, and automatic top-ups."""
