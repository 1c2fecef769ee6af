"""The read model, the outbox, the inbox and the quarantine.

Revision: 0001
Revises:
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "announcements",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.String(length=255), nullable=False),
        sa.Column(
            "announced_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_announcements")),
    )
    op.create_table(
        "batch_results",
        sa.Column("batch_id", sa.String(length=255), nullable=False),
        sa.Column("heard_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("registration_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("registration_event_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("class_id", sa.String(length=255), nullable=True),
        sa.Column("org_id", sa.String(length=255), nullable=True),
        sa.Column("course_code", sa.Text(), nullable=True),
        sa.Column("expected_essay_count", sa.Integer(), nullable=True),
        sa.Column("essay_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("student_prompt_ref", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("requested_pipelines", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("assignment_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("assignment_event_id", sa.Uuid(), nullable=True),
        sa.Column("assignment_id", sa.String(length=255), nullable=True),
        sa.Column("cj_verdict_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cj_verdict_event_id", sa.Uuid(), nullable=True),
        sa.Column("cj_verdict_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "anchor_ids", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column("grace_horizon_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("grace_horizon_event_id", sa.Uuid(), nullable=True),
        sa.Column("overall_status", sa.Text(), server_default=sa.text("'awaiting_content_validation'"), nullable=False),
        sa.Column("horizon_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("horizon_event_id", sa.Uuid(), nullable=True),
        sa.Column(
            "grace_due",
            sa.Double(),
            nullable=True,
            comment="reading of the caught-up clock at which grace runs out; seconds",
        ),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch_results")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_batch_results_grace_due",
        "batch_results",
        ["grace_due"],
        unique=False,
        postgresql_where=sa.text("grace_due IS NOT NULL"),
    )
    op.create_index(
        "ix_batch_results_user_newest",
        "batch_results",
        [sa.literal_column("user_id"), sa.literal_column("created_at DESC"), sa.literal_column("batch_id DESC")],
        unique=False,
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_table(
        "cj_assessments",
        sa.Column("batch_id", sa.String(length=255), nullable=False),
        sa.Column("job_id", sa.String(length=255), nullable=False),
        sa.Column("graded", sa.Boolean(), nullable=False),
        sa.Column("place", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="the order of folding"),
        sa.Column("assessed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("rankings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("correlation_id", sa.Uuid(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("announcement_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "job_id", "graded", name=op.f("pk_cj_assessments")),
    )
    op.create_table(
        "essay_results",
        sa.Column("essay_id", sa.String(length=255), nullable=False),
        sa.Column("batch_id", sa.String(length=255), nullable=True),
        sa.Column("heard_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("placed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("placed_event_id", sa.Uuid(), nullable=True),
        sa.Column("placed_batch_id", sa.String(length=255), nullable=True),
        sa.Column("listed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("listed_event_id", sa.Uuid(), nullable=True),
        sa.Column("listed_batch_id", sa.String(length=255), nullable=True),
        sa.Column("file_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("file_event_id", sa.Uuid(), nullable=True),
        sa.Column("file_upload_id", sa.String(length=255), nullable=True),
        sa.Column("file_text_storage_id", sa.String(length=255), nullable=True),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.Column("spellcheck_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("spellcheck_event_id", sa.Uuid(), nullable=True),
        sa.Column("spellcheck_status", sa.Text(), nullable=True),
        sa.Column("spellcheck_correction_count", sa.Integer(), nullable=True),
        sa.Column("spellcheck_corrected_text_storage_id", sa.Text(), nullable=True),
        sa.Column("spellcheck_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("spellcheck_metrics_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("spellcheck_metrics_event_id", sa.Uuid(), nullable=True),
        sa.Column("spellcheck_metrics_values", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("cj_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cj_event_id", sa.Uuid(), nullable=True),
        sa.Column("cj_status", sa.Text(), nullable=True),
        sa.Column("cj_rank", sa.Integer(), nullable=True),
        sa.Column("cj_score", sa.Double(), nullable=True),
        sa.Column("cj_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("cj_grades_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cj_grades_event_id", sa.Uuid(), nullable=True),
        sa.Column("cj_grades_letter_grade", sa.Text(), nullable=True),
        sa.Column("cj_grades_normalized_score", sa.Double(), nullable=True),
        sa.Column("cj_grades_confidence_score", sa.Double(), nullable=True),
        sa.Column("cj_grades_confidence_label", sa.Text(), nullable=True),
        sa.Column("cj_grades_comparison_count", sa.Integer(), nullable=True),
        sa.Column("nlp_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("nlp_event_id", sa.Uuid(), nullable=True),
        sa.Column("nlp_status", sa.Text(), nullable=True),
        sa.Column("nlp_lexical_diversity_score", sa.Double(), nullable=True),
        sa.Column("nlp_cohesion_score", sa.Double(), nullable=True),
        sa.Column("nlp_grammatical_error_rate", sa.Double(), nullable=True),
        sa.Column("nlp_metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("ai_feedback_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ai_feedback_event_id", sa.Uuid(), nullable=True),
        sa.Column("ai_feedback_status", sa.Text(), nullable=True),
        sa.Column("ai_feedback_storage_id", sa.Text(), nullable=True),
        sa.Column("ai_feedback_details", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("ai_feedback_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("essay_id", name=op.f("pk_essay_results")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_essay_results_batch_id", "essay_results", ["batch_id"], unique=False)
    op.create_index(
        "ix_essay_results_listed_batch_id",
        "essay_results",
        ["listed_batch_id"],
        unique=False,
        postgresql_where=sa.text("listed_batch_id IS NOT NULL"),
    )
    op.create_table(
        "event_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("aggregate_type", sa.Text(), nullable=False),
        sa.Column("aggregate_id", sa.String(length=255), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_data", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("retry_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("next_attempt_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("parked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_outbox")),
        sa.UniqueConstraint("event_id", name=op.f("uq_event_outbox_event_id")),
    )
    op.create_index(
        "ix_event_outbox_failed",
        "event_outbox",
        ["topic", "event_key", "id"],
        unique=False,
        postgresql_where=sa.text("published_at IS NULL AND retry_count > 0"),
    )
    op.create_index(
        "ix_event_outbox_published_at",
        "event_outbox",
        ["published_at"],
        unique=False,
        postgresql_where=sa.text("published_at IS NOT NULL"),
    )
    op.create_index(
        "ix_event_outbox_unpublished",
        "event_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.create_table(
        "pending_invalidations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("batch_id", sa.String(length=255), nullable=True),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pending_invalidations")),
    )
    op.create_table(
        "phase_outcomes",
        sa.Column("batch_id", sa.String(length=255), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("outcome_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("outcome_event_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("processed_essay_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("failed_essay_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("source_service", sa.Text(), nullable=False),
        sa.Column("correlation_id", sa.Uuid(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", "phase", name=op.f("pk_phase_outcomes")),
    )
    op.create_table(
        "pipeline_ends",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.String(length=255), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("completed_phases", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("final_status", sa.Text(), nullable=False),
        sa.Column("successful_essay_count", sa.Integer(), nullable=True),
        sa.Column("failed_essay_count", sa.Integer(), nullable=True),
        sa.Column("processing_duration_seconds", sa.Double(), nullable=True),
        sa.Column("correlation_id", sa.Uuid(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_pipeline_ends")),
    )
    op.create_index("ix_pipeline_ends_batch_id", "pipeline_ends", ["batch_id"], unique=False)
    op.create_table(
        "processed_events",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column(
            "processed_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_processed_events")),
    )
    op.create_index(
        "ix_processed_events_processed_at", "processed_events", ["processed_at"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "quarantined_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the value: a topic made anew counts from 0 again",
        ),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column(
            "headers",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="[[name, base64 of the value or null], ...]",
        ),
        sa.Column("produced_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column(
            "quarantined_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantined_messages")),
        sa.UniqueConstraint(
            "topic", "partition", "offset", "digest", name=op.f("uq_quarantined_messages_topic_partition_offset_digest")
        ),
    )
    op.create_table(
        "service_state",
        sa.Column("id", sa.SmallInteger(), nullable=False),
        sa.Column("database_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("caught_up_seconds", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "ticked_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("caught_up", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_service_state")),
    )
    op.execute("INSERT INTO service_state (id) VALUES (1)")


def downgrade() -> None:
    op.drop_table("service_state")
    op.drop_table("quarantined_messages")
    op.drop_index("ix_processed_events_processed_at", table_name="processed_events", postgresql_using="brin")
    op.drop_table("processed_events")
    op.drop_index("ix_pipeline_ends_batch_id", table_name="pipeline_ends")
    op.drop_table("pipeline_ends")
    op.drop_table("phase_outcomes")
    op.drop_table("pending_invalidations")
    op.drop_index(
        "ix_event_outbox_unpublished", table_name="event_outbox", postgresql_where=sa.text("published_at IS NULL")
    )
    op.drop_index(
        "ix_event_outbox_published_at", table_name="event_outbox", postgresql_where=sa.text("published_at IS NOT NULL")
    )
    op.drop_index(
        "ix_event_outbox_failed",
        table_name="event_outbox",
        postgresql_where=sa.text("published_at IS NULL AND retry_count > 0"),
    )
    op.drop_table("event_outbox")
    op.drop_index(
        "ix_essay_results_listed_batch_id",
        table_name="essay_results",
        postgresql_where=sa.text("listed_batch_id IS NOT NULL"),
    )
    op.drop_index("ix_essay_results_batch_id", table_name="essay_results")
    op.drop_table("essay_results")
    op.drop_table("cj_assessments")
    op.drop_index(
        "ix_batch_results_user_newest", table_name="batch_results", postgresql_where=sa.text("user_id IS NOT NULL")
    )
    op.drop_index(
        "ix_batch_results_grace_due", table_name="batch_results", postgresql_where=sa.text("grace_due IS NOT NULL")
    )
    op.drop_table("batch_results")
    op.drop_table("announcements")
