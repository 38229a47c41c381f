"""Meters of images, audio, speech and rerank requests, which exist without being declared."""

from __future__ import annotations

from alembic import op

revision = "20261121_1160"
down_revision = "20261121_1140"
branch_labels = None
depends_on = None

# A meter of that name which an operator has defined stays what it is, and counts both.
UP = """
INSERT INTO meter_version (code, version, unit, aggregation, informational, effective_from)
VALUES ('images', 1, 'images', 'sum', false, '1970-01-01Z'),
       ('audio.seconds', 1, 'seconds', 'sum', false, '1970-01-01Z'),
       ('speech.characters', 1, 'characters', 'sum', false, '1970-01-01Z'),
       ('rerank.searches', 1, 'searches', 'sum', false, '1970-01-01Z')
ON CONFLICT (code, version) DO NOTHING
"""

# What events name has to stay; meter versions cannot be deleted by anybody but the owner, now.
DOWN = """
ALTER TABLE meter_version DISABLE TRIGGER USER;
DELETE FROM meter_version v
 WHERE code IN ('images', 'audio.seconds', 'speech.characters', 'rerank.searches')
   AND version = 1 AND effective_from = '1970-01-01Z' AND reading IS NULL
   AND NOT EXISTS (SELECT FROM meter_set s WHERE v.id = ANY (s.meter_version_ids));
ALTER TABLE meter_version ENABLE TRIGGER USER;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
