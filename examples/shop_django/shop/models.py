"""What the shop keeps itself."""

from django.db import models


class Order(models.Model):
    order_id = models.CharField(max_length=50, primary_key=True)
    cents = models.PositiveIntegerField()
    status = models.CharField(max_length=20, default="placed")

    def __str__(self) -> str:
        return f"{self.order_id}: {self.status}"
