"""What an instance's settings mean for its gateway."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence

from common.gateway.models import GatewaySettings, ServedModel
from common.options.shared import GeneralOptions
from common.runtime.app import ModelExtras
from common.runtime.hosted_model import HostedModel
from common.runtime.limits import InstanceLimits


def gateway_settings(
    general: GeneralOptions,
    limits: InstanceLimits,
    *,
    name: str,
    task_id: str | None,
    tls: ssl.SSLContext | None,
) -> GatewaySettings:
    """Return how the gateway serves.

    Args:
        general: The instance's settings.
        limits: How long requests wait for their models.
        name: The instance's name.
        task_id: Its ClearML task, if it has one.
        tls: Serve HTTPS with it; None: plain HTTP.
    """
    return GatewaySettings(
        host=general.host,
        ports=general.ports(),
        max_body_bytes=int(general.max_body_mib * 1024 * 1024),
        load_wait_s=limits.load_wait_s,
        public_url=general.public_url,
        task_id=task_id,
        instance_name=name,
        heartbeat_after_s=limits.heartbeat_after_s,
        heartbeat_every_s=limits.heartbeat_every_s,
        tls=tls,
        cors_origins=general.origins(),
    )


def served_models(
    models: Sequence[HostedModel], extras: Mapping[str, ModelExtras]
) -> list[ServedModel]:
    """Return the models as the gateway serves them.

    Args:
        models: The instance's models.
        extras: What belongs to some of them, by name.
    """
    now = int(time.time())
    served = []
    for model in models:
        limits = model.options.limits
        extra = extras.get(model.name)
        served.append(
            ServedModel(
                name=model.name,
                upstream=model,
                max_concurrent_requests=limits.max_concurrent_requests,
                max_input_tokens=limits.max_input_tokens,
                max_total_tokens=limits.max_total_tokens,
                max_waiting_requests=limits.max_waiting_requests,
                max_queue_s=limits.max_queue_s,
                cancel_on_disconnect=limits.cancel_on_disconnect,
                created=now,
                adapters=extra.adapters if extra else (),
            )
        )
    return served
