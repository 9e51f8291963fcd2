"""Managed services, simulated: real servers that refuse what a service refuses, in its words.

A command that a service has taken away is renamed to nothing (`rename-command`), so that the server
answers "ERR unknown command"; one that the service forbids its users is denied to the default user
by ACL, and answered with NOPERM. The default user, without a password, is the service's customer;
the tests themselves come as another user, `admin`, to fill and to compare, and do without the
commands that nobody has.

The lists are those of the services' own pages as they stood in 2025 and 2026, without commands
that the simulating version does not have. What is *not* simulated, or only guessed:

- The version is the nearest of those that the tests have, not always one that the service offers.
- Which of the two wordings a service uses is known for ElastiCache and Memorystore ("unknown
  command", from reports of users), Azure (its page) and OCI Cache (NOPERM, from a report). For
  subcommands there is only NOPERM here; Redis Cloud's and Aiven's wordings are assumed.
- Proxies: no sharding behind one address, no other INFO, no replies of a service's own.
- TLS and passwords, which most of these demand; other tests have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from support.servers import Cluster, Option, Server

_ADMIN = "admin"
_SECRET = "of the service's own"


@dataclass(frozen=True)
class Service:
    """What one service refuses.

    Attributes:
        name: as in the guide `services`.
        version: of the server that stands in for it.
        unknown: commands that nobody has.
        forbidden: commands and subcommands (as `client|pause`) that its users may not call.
        cluster: it is a cluster, of one node.
        options: further directives, such as how it evicts unless told otherwise.
    """

    name: str
    version: str
    unknown: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    cluster: bool = False
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)

    @property
    def databases(self) -> tuple[int, ...]:
        """Databases to fill in a test."""
        return (0,) if self.cluster or "select" in self.unknown else (0, 3)

    @property
    def directives(self) -> dict[str, Any]:
        """The configuration that makes a server refuse all that."""
        denied = [f"-{command}" for command in self.forbidden]
        everything = ("on", "~*", "&*", "+@all")
        return {
            **self.options,
            "rename_command": [(command, "") for command in self.unknown],
            "user": [
                (_ADMIN, f">{_SECRET}", *everything),
                ("default", "nopass", *everything, *denied),
            ],
        }


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# What these four do unless told otherwise.
_EVICTS = {"maxmemory": "1gb", "maxmemory_policy": "volatile-lru"}

# docs.aws.amazon.com/AmazonElastiCache/latest/dg/SupportedCommands.html
ELASTICACHE = Service(
    "Amazon ElastiCache",
    "8.1",
    unknown=_words(
        "bgrewriteaof bgsave config debug migrate psync replicaof save shutdown slaveof sync"
    ),
    forbidden=_words(
        "acl|deluser acl|load acl|save acl|setuser cluster|addslots cluster|addslotsrange "
        "cluster|bumpepoch cluster|delslots cluster|delslotsrange cluster|failover "
        "cluster|flushslots cluster|forget cluster|links cluster|meet cluster|setslot"
    ),
    options=_EVICTS,
)

# The same page. CLIENT NO-TOUCH stands neither among the commands that serverless caches have nor
# among those that they lack; WATCH and UNWATCH are missed by users.
ELASTICACHE_SERVERLESS = Service(
    "Amazon ElastiCache Serverless",
    "8.1",
    unknown=(
        *ELASTICACHE.unknown,
        *_words(
            "commandlog fcall fcall_ro function keys lastsave latency memory monitor move object "
            "pfdebug pfselftest psubscribe punsubscribe slowlog swapdb unwatch wait watch"
        ),
    ),
    forbidden=(
        *ELASTICACHE.forbidden,
        *_words(
            "acl|log client|caching client|getredir client|id client|info client|kill client|list "
            "client|no-evict client|no-touch client|pause client|tracking client|trackinginfo "
            "client|unblock client|unpause cluster|count-failure-reports pubsub|numpat script|kill"
        ),
    ),
    cluster=True,
)

# docs.cloud.google.com/memorystore/docs/redis/product-constraints; a newer page beside it allows
# a part of CLIENT from Redis 6 on.
MEMORYSTORE = Service(
    "Google Memorystore for Redis",
    "7.0",
    unknown=_words(
        "acl bgrewriteaof bgsave client cluster command config debug lastsave migrate monitor "
        "object replicaof save shutdown"
    ),
    options=_EVICTS,
)

# learn.microsoft.com/azure/azure-cache-for-redis/cache-configure; of CLUSTER it has what only
# reads, which a server that is no cluster answers by an error anyway.
AZURE = Service(
    "Azure Cache for Redis",
    "6.2",
    unknown=_words(
        "bgrewriteaof bgsave config debug migrate psync replicaof save shutdown slaveof sync"
    ),
    options=_EVICTS,
)

# redis.io/docs/latest/operate/rs/references/compatibility/commands; without the OSS cluster API.
# SELECT "is supported solely for compatibility […] but does not perform any operations", says the
# page, and also that it is blocked: both have a test.
REDIS_CLOUD = Service(
    "Redis Cloud",
    "8.1",
    unknown=_words(
        "asking bgrewriteaof bgsave cluster debug failover lastsave migrate move psync readonly "
        "readwrite replconf replicaof reset restore-asking role save select shutdown slaveof "
        "swapdb sync"
    ),
    forbidden=_words(
        "acl|deluser acl|genpass acl|load acl|log acl|save acl|setuser client|getredir "
        "client|no-evict client|pause client|unpause config|resetstat latency|doctor "
        "latency|graph latency|history latency|latest latency|reset memory|doctor "
        "memory|malloc-stats memory|purge memory|stats"
    ),
    options=_EVICTS,
)

# docs.oracle.com/iaas/Content/ocicache/restrictedcommands.htm; EVAL and its kin only for sharded
# clusters, which are simulated here in that alone. MEMORY USAGE is not on that page, but refused
# to users that have an ACL: github.com/valkey-io/valkey-admin/issues/342.
OCI_CACHE = Service(
    "OCI Cache",
    "7.0",
    forbidden=_words(
        "acl bgrewriteaof bgsave cluster config|set debug migrate module psync replicaof save "
        "shutdown sync eval eval_ro evalsha evalsha_ro fcall fcall_ro function script memory"
    ),
)

# aiven.io/docs/products/valkey/reference/restricted-commands, and what the page on its older
# Redis, now Caching, has beyond: ROLE and scripts.
AIVEN = Service(
    "Aiven for Valkey",
    "8.1",
    forbidden=_words(
        "acl bgrewriteaof bgsave cluster command config debug failover lastsave migrate monitor "
        "replicaof role save shutdown slaveof eval eval_ro evalsha evalsha_ro"
    ),
)

SERVICES = (
    ELASTICACHE,
    ELASTICACHE_SERVERLESS,
    MEMORYSTORE,
    AZURE,
    REDIS_CLOUD,
    OCI_CACHE,
    AIVEN,
)


class ManagedServer(Server):
    """A server whose `uri` is for the service's customers; the tests come as its admin."""

    @property
    def login(self) -> dict[str, Any]:
        return {"username": _ADMIN, "password": _SECRET}


class ManagedCluster(Cluster):
    """A cluster of such servers."""

    kind = ManagedServer


Managed = ManagedServer | ManagedCluster


def start_service(service: Service) -> Managed:
    """Start a server, or a cluster of one node, that stands in for a service."""
    if service.cluster:
        return ManagedCluster(service.version, primaries=1, **service.directives)
    return ManagedServer(service.version, **service.directives)
