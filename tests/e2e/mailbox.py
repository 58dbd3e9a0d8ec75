"""What a person would be sent: a queue subscribed to the deployment's topic."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(slots=True)
class Mailbox:
    """A queue of its own on a topic.

    Attributes:
        sqs: SQS client.
        sns: SNS client.
        url: The queue.
        subscription: Its subscription.
        messages: Everything received so far.
    """

    sqs: Any
    sns: Any
    url: str
    subscription: str
    messages: list[Message] = field(default_factory=list)

    @classmethod
    def open(cls, sqs: Any, sns: Any, topic: str, name: str) -> "Mailbox":
        """Makes a queue that the topic alone may write to, and subscribes it."""
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        allowed = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        subscription = sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=arn,
            Attributes={"RawMessageDelivery": "true"},
            ReturnSubscriptionArn=True,
        )["SubscriptionArn"]
        return cls(sqs, sns, url, subscription)

    def close(self) -> None:
        """Removes subscription and queue."""
        self.sns.unsubscribe(SubscriptionArn=self.subscription)
        self.sqs.delete_queue(QueueUrl=self.url)

    def find(self, wanted: Callable[[Message], bool]) -> Message | None:
        """The first message so far that is wanted."""
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=0
            )
            received = answer.get("Messages", ())
            for message in received:
                self.messages.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
            if not received:
                return next(filter(wanted, self.messages), None)
