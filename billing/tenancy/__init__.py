"""Who is who: legal entities, tenants, projects, API keys and their roles."""
