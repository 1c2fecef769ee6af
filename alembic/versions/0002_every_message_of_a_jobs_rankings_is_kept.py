"""Every message of a CJ job's rankings is kept, under its event id: not only the first of each form.

Rows from before have no event id to tell, and get the nil one; so do the rows of a version that still runs, which go on
being the first of each form. Both are harmless: such a message, if it is ever folded again, enters once more beside its
row, and what is announced is known by its job, so not announced again.

Revision: 0002
Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    nil = sa.text("'00000000-0000-0000-0000-000000000000'")
    op.add_column("cj_assessments", sa.Column("event_id", sa.Uuid(), server_default=nil, nullable=False))
    op.drop_constraint("pk_cj_assessments", "cj_assessments", type_="primary")
    op.create_primary_key("pk_cj_assessments", "cj_assessments", ["batch_id", "job_id", "graded", "event_id"])


def downgrade() -> None:
    op.execute(
        "DELETE FROM cj_assessments a USING cj_assessments first "
        "WHERE (a.batch_id, a.job_id, a.graded) = (first.batch_id, first.job_id, first.graded) "
        "AND first.place < a.place"
    )
    op.drop_constraint("pk_cj_assessments", "cj_assessments", type_="primary")
    op.create_primary_key("pk_cj_assessments", "cj_assessments", ["batch_id", "job_id", "graded"])
    op.drop_column("cj_assessments", "event_id")
