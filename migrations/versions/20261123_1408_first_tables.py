"""The first tables: the ledger, the delivery of jobs, projects, workers and tasks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
MOMENT = sa.DateTime(timezone=True)

APPEND_ONLY = {
    "postgresql": (
        """
        CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP
                USING ERRCODE = 'insufficient_privilege';
        END $$
        """,
        """
        CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()
        """,
        "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only",
    ),
    "sqlite": (
        """
        CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE refused'); END
        """,
        """
        CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE refused'); END
        """,
        """
        CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
        WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE refused'); END
        """,
    ),
}

TOUCH_UPDATED_AT = {
    "postgresql": """
        CREATE TRIGGER {table}_touch_updated_at BEFORE UPDATE ON {table}
        FOR EACH ROW EXECUTE FUNCTION touch_updated_at()
        """,
    "sqlite": """
        CREATE TRIGGER {table}_touch_updated_at AFTER UPDATE ON {table}
        WHEN NEW.updated_at IS OLD.updated_at
        BEGIN
            UPDATE {table} SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id;
        END
        """,
}


def now() -> sa.TextClause:
    on_sqlite = op.get_context().dialect.name == "sqlite"
    return sa.text("(strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now'))" if on_sqlite else "now()")


def choice(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=20)


def upgrade() -> None:
    create_ledger()
    create_delivery()
    create_people_and_projects()
    create_tasks()
    touch_updated_at("project", "worker", "task")


def create_ledger() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", ID, nullable=False),
        sa.Column("entity_type", sa.String(50), nullable=False),
        sa.Column("entity_id", ID, nullable=False),
        sa.Column(
            "action",
            choice("action", "create", "update", "delete", "restore", "purge"),
            nullable=False,
        ),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("before", JSON, nullable=False),
        sa.Column("after", JSON, nullable=False),
        sa.Column("job_id", sa.String(200), nullable=True),
        sa.Column("kind", sa.String(100), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("trace_id", sa.String(64), nullable=True),
        sa.Column("at", MOMENT, server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_entity", "audit_log", ["entity_type", "entity_id", "id"])
    op.create_index("ix_audit_log_job_id", "audit_log", ["job_id"])
    for statement in APPEND_ONLY[op.get_context().dialect.name]:
        op.execute(statement)


def create_delivery() -> None:
    op.create_table(
        "processed_job",
        sa.Column("job_id", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("payload_hash", sa.LargeBinary(), nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("processed_at", MOMENT, server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_processed_job"),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(100), nullable=True),
        sa.Column("payload", JSON, nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.String(50), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("problems", JSON, nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("buried_at", MOMENT, server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letter"),
        sa.UniqueConstraint("job_id", name="uq_dead_letter_job_id"),
    )
    op.create_index("ix_dead_letter_buried_at", "dead_letter", ["buried_at"])


def create_people_and_projects() -> None:
    op.create_table(
        "project",
        sa.Column("id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", MOMENT, server_default=now(), nullable=False),
        sa.Column("updated_at", MOMENT, server_default=now(), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name=op.f("ck_project_name_length")),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 20", name=op.f("ck_project_key_length")),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
        sa.UniqueConstraint("key", name="uq_project_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "worker",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "type", choice("type", "person", "agent"), server_default="person", nullable=False
        ),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", MOMENT, server_default=now(), nullable=False),
        sa.Column("updated_at", MOMENT, server_default=now(), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name=op.f("ck_worker_name_length")),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
        sqlite_autoincrement=True,
    )


def create_tasks() -> None:
    op.create_table(
        "task",
        sa.Column("id", ID, nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "status",
            choice("status", "todo", "in_progress", "blocked", "done", "cancelled"),
            server_default="todo",
            nullable=False,
        ),
        sa.Column(
            "priority",
            choice("priority", "low", "normal", "high", "urgent"),
            server_default="normal",
            nullable=False,
        ),
        sa.Column("tags", JSON, server_default=sa.text("'[]'"), nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("assignee_id", ID, nullable=True),
        sa.Column("created_by_id", ID, nullable=True),
        sa.Column("parent_task_id", ID, nullable=True),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", MOMENT, server_default=now(), nullable=False),
        sa.Column("updated_at", MOMENT, server_default=now(), nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.CheckConstraint("length(title) BETWEEN 1 AND 500", name=op.f("ck_task_title_length")),
        sa.CheckConstraint("parent_task_id <> id", name=op.f("ck_task_parent_task_id_not_own")),
        sa.ForeignKeyConstraint(
            ["assignee_id"],
            ["worker.id"],
            name="fk_task_assignee_id_worker",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"],
            ["worker.id"],
            name="fk_task_created_by_id_worker",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["parent_task_id", "project_id"],
            ["task.id", "task.project_id"],
            name="fk_task_parent_task_id_task",
        ),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_task_project_id_project"),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
        sa.UniqueConstraint("project_id", "id", name="uq_task_project_id_id"),
        sqlite_autoincrement=True,
    )
    if op.get_context().dialect.name == "postgresql":
        op.create_check_constraint(
            op.f("ck_task_tags_is_list"), "task", "jsonb_typeof(tags) = 'array'"
        )
    op.create_index("ix_task_created_by_id", "task", ["created_by_id"])
    op.create_index(
        "ix_task_deleted_at",
        "task",
        ["deleted_at"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index("ix_task_parent_task_id", "task", ["parent_task_id"])


def touch_updated_at(*tables: str) -> None:
    dialect = op.get_context().dialect.name
    if dialect == "postgresql":
        op.execute(
            """
            CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                NEW.updated_at := now();
                RETURN NEW;
            END $$
            """
        )
    for table in tables:
        op.execute(TOUCH_UPDATED_AT[dialect].format(table=table))


def downgrade() -> None:
    for table in ("task", "worker", "project", "dead_letter", "processed_job", "audit_log"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_refuse()")
        op.execute("DROP FUNCTION touch_updated_at()")
