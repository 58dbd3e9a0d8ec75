# ruleid: payload-in-log
logger.info("rows checked", rows=table.rows)
# ruleid: payload-in-log
logger.warning("refused", extra={"model": model, "body": body})
# ruleid: payload-in-log
self._logger.error("failed", features=features)
# ruleid: payload-in-log
logger.append_keys(request=request)
# ok: payload-in-log
logger.info("rows checked", row_count=len(rows))
# ok: payload-in-log
logger.info("predicted", extra={"model": model, "prediction_id": prediction_id})
# ok: payload-in-log
client.put(rows=rows)


# ruleid: event-in-log
@logger.inject_lambda_context(log_event=True)
def handler(event, context):
    # ruleid: event-in-log
    logger.info("begins", received=event)
    # ruleid: event-in-log
    logger.debug(event)
    # ruleid: event-in-log
    logger.info("begins", extra={"received": event})
    # ok: event-in-log
    logger.info("begins", action=event["action"])


# ok: event-in-log
@logger.inject_lambda_context(clear_state=True)
def other(event, context):
    # ruleid: words-made-for-the-log
    logger.info(f"run {run_id} begins")
    # ruleid: words-made-for-the-log
    logger.info("run %s begins" % run_id)
    # ruleid: words-made-for-the-log
    logger.info("run {} begins".format(run_id))
    # ok: words-made-for-the-log
    logger.info("run begins", run_id=run_id)
    # ruleid: printed-in-a-function
    print("run begins")
    # ok: printed-in-a-function
    logger.info("run begins")
