"""The orders."""

from typing import Any, ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("order_id", models.CharField(max_length=50, primary_key=True, serialize=False)),
                ("cents", models.PositiveIntegerField()),
                ("status", models.CharField(default="placed", max_length=20)),
            ],
        ),
    ]
