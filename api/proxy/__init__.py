"""The metering proxy: the OpenAI-shaped data plane in front of the inference backends."""
