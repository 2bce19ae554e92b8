"""Products with their prices; what an order costs, and its charge."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "product",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("price", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_product"),
    )
    # orders from before had no price
    op.add_column(
        "shop_order", sa.Column("price", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("shop_order", sa.Column("charge_id", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("shop_order", "charge_id")
    op.drop_column("shop_order", "price")
    op.drop_table("product")
