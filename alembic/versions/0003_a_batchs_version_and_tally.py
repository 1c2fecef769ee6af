"""A batch has a version, renewed whenever its answer may have changed, and a tally of its essays.

No table is rewritten: rows from before share the nil version, and have no tally until they change (it is made while
they are read). A version of the service that still runs renews neither: see the docs on upgrades.

Revision: 0003
Revises: 0002
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # A constant default is kept once, in the catalogue; a random one would have every row written.
    nil = sa.text("'00000000-0000-0000-0000-000000000000'")
    op.add_column("batch_results", sa.Column("version", sa.Uuid(), server_default=nil, nullable=False))
    op.alter_column("batch_results", "version", server_default=sa.text("gen_random_uuid()"))
    op.add_column("batch_results", sa.Column("tally", postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("batch_results", "tally")
    op.drop_column("batch_results", "version")
