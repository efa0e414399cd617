"""Kafka brokers and MongoDB-compatible servers that tests start, hurt and end."""

from tests.support.servers.kafka import KafkaCluster
from tests.support.servers.mongo import MongoServer
from tests.support.servers.process import ServerError, ServerProcess, free_ports

__all__ = ["KafkaCluster", "MongoServer", "ServerError", "ServerProcess", "free_ports"]
