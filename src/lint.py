from nlnet.cli.verify import main

if __name__ == "__main__":
    main()
