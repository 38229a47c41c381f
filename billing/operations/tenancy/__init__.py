"""Legal entities, tenants and API keys: create, list, revoke, authenticate."""
