"""Topics that a message is published to: Amazon's SNS, which passes it on by mail, text message, queue or function."""

ATTEMPTS, CONNECT_SECONDS, READ_SECONDS = 4, 5, 10
LONGEST_SUBJECT = 100  # characters, of ASCII, that SNS takes


class TopicError(Exception):
    """The topic did not take the message; the text says why, and holds no secret."""


def publish(topic: str, subject: str, text: str) -> str:
    """The topic, an ARN, has the message; returns its id. Credentials and another endpoint are those of the environment."""
    import boto3  # 0.4 s that other channels do not need
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS}, connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS
    )
    plain = subject.encode("ascii", "replace").decode()[:LONGEST_SUBJECT]
    try:
        client = boto3.session.Session().client("sns", region_name=topic.split(":")[3], config=config)
        return str(client.publish(TopicArn=topic, Subject=plain, Message=text)["MessageId"])
    except ClientError as error:
        told = error.response.get("Error", {})
        raise TopicError(f"{topic}: {told.get('Code')}: {told.get('Message')}; check the topic and what the user may do") from error
    except (BotoCoreError, ValueError) as error:
        raise TopicError(f"{topic}: {error}; check the credentials in the environment and AWS_ENDPOINT_URL") from error
