"""Requests: an order's row and its event are stored together, or neither is."""

import json

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from sagalog.django import sagas

from .models import Order
from .sagas import OrderPlaced


@csrf_exempt
@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    placed = OrderPlaced(**json.loads(request.body))
    with transaction.atomic():
        receipt = sagas().handle(placed, message_id=request.headers["Idempotency-Key"], connection=connection)
        if not receipt.duplicate:
            Order.objects.create(order_id=placed.order_id, cents=placed.cents)
    return JsonResponse({"duplicate": receipt.duplicate})


def show_order(request: HttpRequest, order_id: str) -> JsonResponse:
    return JsonResponse({"status": get_object_or_404(Order, pk=order_id).status})
