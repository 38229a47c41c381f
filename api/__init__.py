"""What listens: the metering proxy, the tenant and operator API, webhooks."""
