# ruleid: unconditional-item-write
client.put_item(TableName="t", Item={})
# ruleid: unconditional-item-write
self._client.update_item(TableName="t", Key=key, UpdateExpression="SET #a = :a")
# ruleid: unconditional-item-write
client.delete_item(TableName="t", Key=key)
# ruleid: unconditional-item-write
client.batch_write_item(RequestItems=items)
# ruleid: unconditional-item-write
with table.batch_writer() as batch:
    batch.write(item)
# ok: unconditional-item-write
client.put_item(TableName="t", Item={}, ConditionExpression="attribute_not_exists(PK)")
# ok: unconditional-item-write
client.delete_item(TableName="t", Key=key, ConditionExpression="#v = :v")

# ruleid: unconditional-transaction-item
client.transact_write_items(TransactItems=[{"Put": {"TableName": "t", "Item": item}}])
writes = [
    # ruleid: unconditional-transaction-item
    {"Update": {"TableName": "t", "Key": key, "UpdateExpression": "SET #a = :a"}},
    # ok: unconditional-transaction-item
    {"Update": {"TableName": "t", "Key": key, "ConditionExpression": "attribute_exists(PK)"}},
    # ok: unconditional-transaction-item
    {"ConditionCheck": {"TableName": "t", "Key": key}},
]

# ruleid: registry-write-without-assumption
Put("model", key, {"name": "churn"})
# ruleid: registry-write-without-assumption
Put("model", key, {"name": "churn"}, {})
# ruleid: registry-write-without-assumption
Put("model", key, item={"name": "churn"})
# ruleid: registry-write-without-assumption
Update("model", key, {"name": "churn"}, exists=False)
# ok: registry-write-without-assumption
Put("model", key, {"name": "churn"}, ABSENT)
# ok: registry-write-without-assumption
Put("model", key, {"name": "churn"}, when={"version": 3})
# ok: registry-write-without-assumption
Update("model", key, {"name": "churn"})
# ok: registry-write-without-assumption
Update("model", key, {"name": "churn"}, exists=False, when={"version": None})
