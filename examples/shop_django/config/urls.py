"""The shop's addresses; the dashboard is below the admin, and takes its sign-in."""

from django.contrib import admin
from django.urls import include, path
from shop.views import place_order, show_order

urlpatterns = [
    path("orders", place_order),
    path("orders/<str:order_id>", show_order),
    path("admin/sagas/", include("sagalog.django.urls")),
    path("admin/", admin.site.urls),
]
