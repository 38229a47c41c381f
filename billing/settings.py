"""Settings of a deployment, read once at the edges from `STEELYARD_…` variables.

Decides names, defaults and bounds. A value that cannot work stops the start-up; nothing falls
back silently.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from billing.errors import ConfigurationError


class Settings(BaseSettings):
    """What an operator can set. Every server binds to loopback unless told otherwise."""

    model_config = SettingsConfigDict(env_prefix="STEELYARD_", frozen=True, extra="ignore")

    data_dir: Path | None = Field(
        default=None, description="Embedded database and journals; a folder of the user's if unset."
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL to use as it is, instead of the embedded one."
    )
    migrate_url: SecretStr | None = Field(
        default=None, description="The same database as its owner; database_url if unset."
    )
    plan_approval: Literal["none", "required"] = Field(
        default="none",
        description="Whether a contract binds only plan versions that a second operator's key "
        "approved.",
    )
    backends: str | None = Field(
        default=None,
        description="Inference engines: a YAML file, or `[MODEL=]URL[#ENGINE]`, comma-separated.",
    )
    proxy_host: str = "127.0.0.1"
    proxy_port: int = Field(default=8080, ge=0, le=65535)
    proxy_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="How many proxies share the port, one per core; each has its own journal, and "
        "its own counters on the metrics port and the next ones.",
    )
    proxy_metrics_host: str = "127.0.0.1"
    proxy_metrics_port: int = Field(
        default=9464,
        ge=0,
        le=65535,
        description="Where a proxy tells its counters; if it is taken, on the first free one of "
        "the next 15; 0: nowhere.",
    )
    proxy_drain_ms: int = Field(
        default=12_000,
        ge=0,
        description="How long open requests may go on after a proxy was told to stop; then they "
        "are cut and billed as delivered. Whoever stops it has to wait 10 s longer.",
    )
    proxy_file_bytes: int = Field(
        default=512 << 20,
        ge=1,
        description="The largest file that a tenant may upload to a backend that keeps files.",
    )
    stored_response_days: int = Field(
        default=30,
        ge=0,
        description="How long a response that a backend stored is its tenant's to ask for; 0: for "
        "ever.",
    )
    stored_file_days: int = Field(
        default=0,
        ge=0,
        description="The same of a file, whose backend may have told an earlier end; 0: only that.",
    )
    stored_batch_days: int = Field(
        default=0, ge=0, description="The same of a batch that is billed or lost; 0: for ever."
    )
    known_keys_ms: int = Field(
        default=3_600_000,
        ge=0,
        description="How long a proxy takes the keys that it knows while the database is away; "
        "0: for ever.",
    )
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8081, ge=0, le=65535)
    stripe_api_key: SecretStr | None = Field(
        default=None, description="Mirrors issued invoices at Stripe; without it nothing is sent."
    )
    stripe_base_url: str | None = Field(default=None, description="Another Stripe: for tests.")
    stripe_webhook_secrets: SecretStr | None = Field(
        default=None, description="Signing secrets of the webhook endpoint, comma-separated."
    )
    api_statement_ms: int = Field(
        default=30_000,
        ge=0,
        description="How long a statement of the API may take at the database, not a request; "
        "0: as long as it takes.",
    )
    writer_statement_ms: int = Field(
        default=60_000,
        ge=0,
        description="The same of the ledger writer; a page of a journal whose outcome is not known "
        "is looked up before it is shipped again.",
    )
    worker_statement_ms: int = Field(
        default=600_000,
        ge=0,
        description="The same of jobs, those that archive months or read every event excepted.",
    )
    ship_interval_ms: int = Field(default=25, ge=5, le=5000)
    journal_keep_hours: int = Field(
        default=72, ge=1, description="How long shipped journal segments stay, to be replayed."
    )
    retention_months: int | None = Field(
        default=None,
        ge=1,
        description="Full months of usage events that stay in the database; all of them if unset.",
    )
    credit_grace_hours: int = Field(
        default=72,
        ge=0,
        description="How long after its end credit still pays usage of days before it.",
    )
    archive_url: str | None = Field(
        default=None,
        description="Closed months go here: a folder, or s3://bucket/prefix; a folder of data_dir "
        "if unset.",
    )
    archive_endpoint: str | None = Field(
        default=None, description="Address of an S3-compatible store other than Amazon's."
    )
    archive_region: str | None = Field(default=None, description="Region of the bucket.")
    archive_access_key: SecretStr | None = Field(
        default=None, description="Access key of the bucket; the environment's own if unset."
    )
    archive_secret_key: SecretStr | None = Field(
        default=None, description="Secret key of the bucket; needed with the access key."
    )
    seal_key_file: Path | None = Field(
        default=None, description="Ed25519 key that signs tree heads; made in data_dir if unset."
    )
    witness_url: str | None = Field(
        default=None, description="Outside witness that signed tree heads are sent to."
    )
    lease_ms: int = Field(
        default=300_000,
        ge=10_000,
        description="After which silence of a proxy its shares of limits are given to others.",
    )
    accrual_interval_s: Literal[5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800] = Field(
        default=60,
        description="Seconds between turns of the worker that rates what changed.",
    )
    engine_metrics: bool = Field(
        default=True,
        description="Whether engines' own counters are read, to tell what was counted there and "
        "not booked here.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="OpenTelemetry collector that proxies send spans and metrics to, as OTLP over "
        "HTTP, such as http://127.0.0.1:4318; nowhere if unset.",
    )
    otlp_headers: SecretStr | None = Field(
        default=None, description="Headers for the collector: name=value, comma-separated."
    )
    otlp_sample: Decimal = Field(
        default=Decimal(1),
        ge=0,
        le=1,
        description="Share of the traces that begin at a proxy which is recorded; a client's own "
        "traces are if the client records them.",
    )
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    def webhook_secrets(self) -> tuple[str, ...]:
        """Signing secrets that webhooks may be signed with; empty: webhooks are refused."""
        if self.stripe_webhook_secrets is None:
            return ()
        texts = self.stripe_webhook_secrets.get_secret_value().split(",")
        return tuple(text.strip() for text in texts if text.strip())


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: a variable cannot be used; names it, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            first["msg"].lower(), field=f"STEELYARD_{name.upper()}", remedy="correct or unset it"
        ) from None
