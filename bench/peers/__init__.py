"""Peers on the same saga: Temporal, Restate, DBOS, and RabbitMQ with PostgreSQL by hand; `python -m bench peers`.

`install` brings them into a folder of their own. `settings` says what is measured, `start` what each setting consists
of, `servers` how databases and brokers are started, `measure` runs one setting and `report` compares. These run in the
project's environment. The sagas themselves run in the peers' environment: `temporal`, `restate`, `dbos` and `rabbitmq`,
over the same `shop` and the same closed loop, `load`.
"""
